"""What fingerprints cost: steps of a recipe with them against steps without, taking turns.

    python benchmarks/fingerprint.py configs/lm/shakespeare_char.py [--config.SECTION.NAME=VALUE]

Prints a table in Markdown: milliseconds a step (median), the ratio to none (median of the rounds
and their quartiles), the same of the processor time of all threads (a neighbour's load moves it
less), seconds to compile, and whether the parameters have the same bits at the end.
"""

import argparse
import os
import time

import numpy as np

ROUNDS, STEPS = 20, 8


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config")
    args, overrides = parser.parse_known_args()
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "0"

    from aigc_jax.cli import wire
    from aigc_jax.core import config

    built = wire.parts(config.load(args.config, overrides))

    import jax

    from aigc_jax.train import fingerprint, guard, program, sharding

    init = guard.guarded_init(built.task.init)
    plain = guard.guarded_step(built.task.step, policy="stop", spike=0.0)
    steps = {"none": plain}
    for every in (1, 10):
        steps[f"every step{'' if every == 1 else f' of {every}'}"] = fingerprint.stamped(
            plain, every
        )
    hyper = {name: np.float32(value) for name, value in built.config["hyper"].items()}
    states, programs, seconds = {}, {}, {}
    for name, step in steps.items():
        states[name] = sharding.create(built.placement, init, jax.random.key(0), hyper)
        shapes = program.global_batch(built.data.batch(0, (0, 1)), built.placement)
        begin = time.perf_counter()
        abstract = jax.eval_shape(lambda s: s, states[name])
        programs[name] = program.build(step, abstract, shapes, built.placement, STEPS)
        seconds[name] = time.perf_counter() - begin
    times: dict[str, list[list[float]]] = {name: [] for name in steps}
    for turn in range(ROUNDS + 1):
        rows = [built.data.batch(turn * STEPS + i, (0, 1)) for i in range(STEPS)]
        for name, built_program in programs.items():
            batches = jax.block_until_ready(program.stack(rows, STEPS, built.placement))
            begin = time.perf_counter(), time.process_time()
            states[name], _ = built_program.run(states[name], batches, np.int32(STEPS))
            jax.block_until_ready(states[name].params)
            end = time.perf_counter(), time.process_time()
            times[name].append([(e - b) / STEPS for b, e in zip(begin, end, strict=True)])
    print("| fingerprints | ms a step | times none (quartiles) | CPU time | compiled | same bits |")
    print("|---|---|---|---|---|---|")
    bits = {
        name: [x.tobytes() for x in jax.tree.leaves(jax.device_get(state.params))]
        for name, state in states.items()
    }
    for name, found in times.items():
        clock, cpu = (np.array(found[1:]) / np.array(times["none"][1:])).T
        low, middle, high = np.quantile(clock, [0.25, 0.5, 0.75])
        print(
            f"| {name} | {1e3 * np.median(found[1:], axis=0)[0]:.1f}"
            f" | {middle:.3f} ({low:.3f} to {high:.3f}) | {np.median(cpu):.3f}"
            f" | {seconds[name]:.1f} s | {'yes' if bits[name] == bits['none'] else 'NO'} |"
        )


if __name__ == "__main__":
    main()
