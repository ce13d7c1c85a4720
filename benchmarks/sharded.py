"""What a step costs on the sharded path of ONE device, against a plain `jax.jit` of the same step.

    python benchmarks/sharded.py [CONFIG] [--config.SECTION.NAME=VALUE]

One process; the ways take turns, and each starts from the same state. Batches come as NumPy arrays
to all of them, so placing them counts. The ways:

- `jax.jit`: `jax.jit(task.step)` with the state donated, arrays wherever JAX puts them.
- `with the guard`: the same, with the loop's check for bad numbers around the step.
- `placed`: the loop's program (mesh, rules, in and out shardings), one step a call.
- `placed, K a call`: the same, as many steps a call as the loop takes by itself.

Prints a table in Markdown: milliseconds a step (median), and the ratio to `jax.jit` and to
`with the guard`: median of the rounds and quartiles. What the sharded path adds is `placed` over
`with the guard`: the guard is there on any path.
"""

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np

Rows = list[dict[str, np.ndarray]]


def ways(built: Any, most: int) -> dict[str, Callable[[Rows], None]]:
    """Returns functions that take a step for each batch, each with a state of its own."""
    import jax

    from aigc_jax.train import guard, program, sharding

    hyper = {name: np.float32(value) for name, value in built.config["hyper"].items()}
    key = jax.random.key(built.settings.seed)
    init = guard.guarded_init(built.task.init)
    guarded = guard.guarded_step(
        built.task.step, policy=built.settings.on_bad, spike=built.settings.spike
    )

    def plain(init: Any, step: Any) -> Callable[[Rows], None]:
        run, held = jax.jit(step, donate_argnums=0), [jax.jit(init)(key, hyper)]

        def steps(rows: Rows) -> None:
            for row in rows:
                held[0], _ = run(held[0], row)
            jax.block_until_ready(held[0])

        return steps

    def placed(capacity: int) -> Callable[[Rows], None]:
        held = [sharding.create(built.placement, init, key, hyper)]
        shapes = program.global_batch(built.data.batch(0, (0, 1)), built.placement)
        abstract = jax.eval_shape(lambda s: s, held[0])
        made = program.build(guarded, abstract, shapes, built.placement, capacity)

        def steps(rows: Rows) -> None:
            for i in range(0, len(rows), made.capacity):
                some = rows[i : i + made.capacity]
                stacked = program.stack(some, made.capacity, built.placement)
                held[0], _ = made.run(held[0], stacked, np.int32(len(some)))
            jax.block_until_ready(held[0])

        return steps

    return {
        "`jax.jit`": plain(built.task.init, built.task.step),
        "with the guard": plain(init, guarded),
        "placed": placed(1),
        f"placed, {most} a call": placed(most),
    }


def line(name: str, found: dict[str, list[float]]) -> str:
    """One row of the table."""
    mine = np.array(found[name])
    cells = [f"{1e3 * np.median(mine):.2f}"]
    for base in list(found)[:2]:
        low, middle, high = np.quantile(mine / np.array(found[base]), [0.25, 0.5, 0.75])
        cells.append(f"{middle:.3f} ({low:.3f} to {high:.3f})")
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("config", nargs="?", default="configs/lm/shakespeare_char.py")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--steps", type=int, default=0, help="of a turn; 0 for as many as a call")
    args, overrides = parser.parse_known_args()
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "0"

    from aigc_jax.cli import wire
    from aigc_jax.core import config

    built = wire.parts(config.load(args.config, overrides))

    from aigc_jax.train import program

    most = program.capacity(built.settings.steps_per_call, built.data.batch(0, (0, 1)))
    steps = args.steps or most
    arms = ways(built, most)
    found: dict[str, list[float]] = {name: [] for name in arms}
    for turn in range(args.rounds + 1):
        rows = [built.data.batch(turn * steps + i, (0, 1)) for i in range(steps)]
        # Another goes first each time: whoever follows a pause of the machine's pays for it.
        names = list(arms)[turn % len(arms) :] + list(arms)[: turn % len(arms)]
        for name in names:
            begin = time.perf_counter()
            arms[name](rows)
            if turn:  # the first warms up
                found[name].append((time.perf_counter() - begin) / steps)
    print(f"{args.config}: {args.rounds} rounds of {steps} steps, {os.cpu_count()} cores\n")
    print("| way | ms a step | times `jax.jit` (quartiles) | times the guarded one (quartiles) |")
    print("|---|---|---|---|")
    for name in found:
        print(line(name, found))


if __name__ == "__main__":
    main()
