"""What a training process takes, held against what `aigc plan` says of the same recipe.

    python benchmarks/plan_memory.py [lm] [gan] [vae]

Each recipe is made wide enough that a state of hundreds of MB outweighs what Python and JAX take
for themselves. It runs in a process of its own. Once the step is compiled, freed memory is given
back and the kernel's high-water mark set to zero (Linux, /proc/self/clear_refs); then the state is
made, some steps are taken with batches from the data, and the mark is read: `took` is what it
rose by. `planned` is `device_bytes` of `aigc plan --json`: arguments, temporary buffers and outputs
that do not share their bytes with an argument.

`trimmed` is the same once more, with freed memory given back (malloc_trim) after the state was
made. On Linux `aigc` sets an allocator that keeps what it has had: making the state leaves holes,
which the one large buffer of a step does not fit into, and they count in `took`.

Prints a table in Markdown. `before` is what the process held when the mark was set: the
interpreter, the libraries, the compiled program.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

RECIPES = {
    "lm": ["configs/lm/shakespeare_char.py", "--config.task.model.width=768",
           "--config.task.model.layers=6", "--config.data.context=128",
           "--config.run.batch_size=4"],
    "gan": ["configs/gan/mnist_mlp.py", "--config.task.model.generator_widths=(3000,4000)",
            "--config.task.model.discriminator_widths=(4000,3000)"],
    "vae": ["configs/vae/mnist.py", "--config.task.model.width=3500",
            "--config.task.model.layers=2"],
}  # fmt: skip
STEPS = 3
MB = 1e6


def status(field: str) -> float:
    """Returns a line of /proc/self/status in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return 1024.0 * int(line.split()[1])
    raise SystemExit(f"/proc/self/status has no {field}: this needs Linux")


def child(words: list[str]) -> None:
    """Compiles, takes some steps, prints what they took."""
    import ctypes
    import gc

    from aigc_jax.cli import wire
    from aigc_jax.core import config

    built = wire.parts(config.load(words[0], words[1:]))

    import jax
    import numpy as np

    from aigc_jax.train import guard, program, sharding

    jax.config.update("jax_enable_compilation_cache", False)
    settings = built.settings
    hyper = {name: np.float32(value) for name, value in built.config["hyper"].items()}
    init = guard.guarded_init(built.task.init)
    step = guard.guarded_step(built.task.step, policy=settings.on_bad, spike=settings.spike)
    abstract = jax.eval_shape(init, jax.random.key(0), hyper)
    shapes = program.global_batch(built.data.batch(0, (0, 1)), built.placement)
    compiled = program.build(step, abstract, shapes, built.placement, settings.steps_per_call)
    give_back = ctypes.CDLL("libc.so.6").malloc_trim

    def peak(trim: bool) -> tuple[float, float]:
        """Returns what is held before the state is made, and how much more is at the peak."""
        gc.collect()
        give_back(0)
        before = status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")
        state = sharding.create(built.placement, init, jax.random.key(0), hyper)
        jax.block_until_ready(state)
        if trim:
            give_back(0)
            Path("/proc/self/clear_refs").write_text("5")
        for i in range(STEPS):
            rows = [built.data.batch(i, (0, 1))]
            batches = program.stack(rows, compiled.capacity, built.placement)
            state, metrics = compiled.run(state, batches, np.int32(1))
            jax.block_until_ready((state, metrics))
        return before, status("VmHWM") - before

    jax.block_until_ready(sharding.create(built.placement, init, jax.random.key(0), hyper))
    before, took = peak(trim=False)
    _, trimmed = peak(trim=True)
    print(json.dumps({"before": before, "took": took, "trimmed": trimmed}))


def measured(words: list[str]) -> dict[str, float]:
    """Runs a recipe's child and its plan; returns bytes."""
    said = []
    for command in (
        [sys.executable, __file__, "--child", *words],
        [sys.executable, "-m", "aigc_jax.cli.main", "plan", *words, "--steps=1", "--json"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr[-2000:])
        said.append(json.loads(done.stdout.splitlines()[-1]))
    return {**said[0], "device_bytes": said[1]["device_bytes"]}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipes", nargs="*", help=", ".join(RECIPES))
    args = parser.parse_args()
    print("| recipe | before | planned | took | planned / took | trimmed | planned / trimmed |")
    print("|---|---|---|---|---|---|---|")
    for name in args.recipes or RECIPES:
        found = measured(RECIPES[name])
        took, trimmed, planned = (found[k] for k in ("took", "trimmed", "device_bytes"))
        print(
            f"| {name} | {found['before'] / MB:.0f} MB | {planned / MB:.0f} MB"
            f" | {took / MB:.0f} MB | {planned / took:.2f}"
            f" | {trimmed / MB:.0f} MB | {planned / trimmed:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2:])
    else:
        main()
