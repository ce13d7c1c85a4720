"""What the program of N trials starts and moves, per trial, against the program of a single run.

    python benchmarks/vectorised_program.py [CONFIG ...] [--trials 1 4 16 64]

Nothing is run or timed: the compiled programs are read. Kernels are what a step starts (fusions,
products, copies, calls of a library; what is in a loop as often as it turns). Bytes are those that
the compiler states for a step: read and written by all of them. On an accelerator a kernel costs
microseconds to start, however little it does, and small models spend their time there: kernels per
trial are what a vectorised sweep saves. Bytes per trial don't fall, but for batches that all trials
share: each trial has parameters of its own.

The step is the one that both ways take, with the check for bad numbers. It is compiled for the CPU.
For CUDA it is lowered only (`operations`, of StableHLO, before any fusion; those of called functions
at each call, loops counted once): without a GPU nothing compiles for one here.

Prints a table in Markdown for each recipe.
"""  # noqa: E501

import argparse
import re
from collections import Counter
from typing import Any

import numpy as np

CONFIGS = ("configs/lm/tiny_shakespeare.py", "configs/gan/grid.py")
_FUNCTION = re.compile(r"^\s*func\.func (?:public |private )?@([\w.]+)\(", re.MULTILINE)
_CALL = re.compile(r"(?:func\.)?call @([\w.]+)\(")
_OPERATION = re.compile(r"\b(?:stablehlo|chlo)\.([a-z_]+)")
_HELD = {"constant", "return", "while"}


def operations(text: str) -> Counter[str]:
    """Counts the operations of a StableHLO program, functions in it at each call."""
    starts = [(found[1], found.end()) for found in _FUNCTION.finditer(text)]
    ends = [end for _, end in starts[1:]] + [len(text)]
    bodies = {name: text[begin:end] for (name, begin), end in zip(starts, ends, strict=True)}
    known: dict[str, Counter[str]] = {}

    def of(name: str) -> Counter[str]:
        if name not in known:
            found = Counter(
                word
                for line in bodies[name].splitlines()
                if (match := _OPERATION.search(line)) and (word := match[1]) not in _HELD
            )
            for inner in _CALL.findall(bodies[name]):
                found += of(inner)
            known[name] = found
        return known[name]

    return of("main")


def described(step: Any, state: Any, batch: Any) -> dict[str, float]:
    """Compiles a step for the CPU, lowers it for CUDA, and counts."""
    import jax

    from aigc_jax.train import hlo

    traced = jax.jit(step, donate_argnums=0).trace(state, batch)
    compiled = traced.lower(lowering_platforms=("cpu",)).compile()
    kernels = hlo.launched(hlo.parse(compiled.as_text()))
    lowered = operations(traced.lower(lowering_platforms=("cuda",)).as_text())
    memory = compiled.memory_analysis()
    return {
        "kernels": kernels.total(),
        "bytes": compiled.cost_analysis()["bytes accessed"],
        "held": memory.argument_size_in_bytes + memory.temp_size_in_bytes,
        "operations": lowered.total(),
        "cuda products": lowered["dot_general"] + lowered["convolution"],
    }


def programs(config_path: str, overrides: list[str], trials: list[int]) -> list[tuple[str, Any]]:
    """Returns (what it is, counts) of the single run's step and of each number of trials."""
    from aigc_jax.cli import wire
    from aigc_jax.core import config

    built = wire.parts(config.load(config_path, overrides))

    import jax

    from aigc_jax.train import guard, program

    hyper = {name: np.float32(value) for name, value in built.config["hyper"].items()}
    init = guard.guarded_init(built.task.init)
    step = guard.guarded_step(built.task.step, policy="skip", spike=built.settings.spike)
    batch = program.global_batch(built.data.batch(0, (0, 1)), built.placement)
    key = jax.random.key(0)
    rows = [("the single run", described(step, jax.eval_shape(init, key, hyper), batch))]
    for number in trials:
        keys = jax.eval_shape(lambda n=number: jax.random.split(key, n))
        numbers = {name: jax.ShapeDtypeStruct((number,), np.float32) for name in hyper}
        state = jax.eval_shape(jax.vmap(init), keys, numbers)
        for shared in (True, False):
            lead = () if shared else (number,)
            data = {n: jax.ShapeDtypeStruct((*lead, *x.shape), x.dtype) for n, x in batch.items()}
            many = jax.vmap(step, in_axes=(0, None if shared else 0))
            what = f"{number} trial{'s' * (number > 1)}, {'one batch' if shared else 'own batches'}"
            rows.append((what, described(many, state, data)))
            if number == 1:
                break
    return rows


def table(rows: list[tuple[str, Any]]) -> None:
    """Prints a table in Markdown; per trial."""
    print("| program | kernels | per trial | MB moved per trial | times single"
          " | MB held | operations for CUDA | per trial | of them products |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|")
    single = rows[0][1]
    for what, found in rows:
        number = 1 if what.startswith("the") else int(what.split()[0])
        moved = found["bytes"] / number
        print(
            f"| {what} | {found['kernels']:.0f} | {found['kernels'] / number:.1f}"
            f" | {moved / 1e6:.2f} | {moved / single['bytes']:.2f}"
            f" | {found['held'] / 1e6:.1f} | {found['operations']:.0f}"
            f" | {found['operations'] / number:.1f} | {found['cuda products']:.0f} |",
            flush=True,
        )


def main() -> None:
    """Compiles and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("configs", nargs="*", default=CONFIGS)
    parser.add_argument("--trials", type=int, nargs="+", default=[1, 4, 16, 64])
    args, overrides = parser.parse_known_args()

    from aigc_jax.cli import wire

    wire.start_jax()
    for path in args.configs:
        print(f"`{path}`\n")
        table(programs(path, overrides, args.trials))
        print()


if __name__ == "__main__":
    main()
