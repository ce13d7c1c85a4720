"""What a training process takes, held against what `aigc plan` says of the same recipe.

    python benchmarks/plan_memory.py [lm] [gan] [vae]

Each recipe is made wide enough that a state of hundreds of MB outweighs what Python and JAX take
for themselves. It runs in a process of its own. The step is compiled and one call made with a
state that is thrown away: pages of JAX's own code and of the cached data are then in memory, which
are no part of what a recipe takes (a hundred MB). Freed memory is given back and the kernel's
high-water mark set to zero (Linux, /proc/self/clear_refs); then the state is made, some steps are
taken with batches from the data, as many a call as in a run, and the mark is read: `took` is what
it rose by, and `made` what it had risen by once the state was there. `planned` is `device_bytes` of
`aigc plan --json` (arguments, temporary buffers, and outputs that do not share their bytes with an
argument) and `batch_bytes` (batches on their way). What the allocator keeps between blocks, some
tens of MB, is in `took` and in no plan: of a small recipe it is more than 15 %.

Prints a table in Markdown. `before` is what the process held when the mark was set: the
interpreter, the libraries, the compiled program, the data's pages.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

RECIPES = {
    "lm": ["configs/lm/shakespeare_char.py", "--config.task.model.width=768",
           "--config.task.model.layers=6", "--config.data.context=128",
           "--config.run.batch_size=4"],
    "gan": ["configs/gan/mnist_mlp.py", "--config.task.model.generator_widths=(3000,4000)",
            "--config.task.model.discriminator_widths=(4000,3000)"],
    "vae": ["configs/vae/mnist.py", "--config.task.model.width=3500",
            "--config.task.model.layers=2"],
}  # fmt: skip
CALLS, STEPS = 2, 2  # of one call; its batches are there for as many as a call has in a run
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

    def made() -> Any:
        return jax.block_until_ready(
            sharding.create(built.placement, init, jax.random.key(0), hyper)
        )

    def stepped(state: Any, call: int) -> Any:
        most = compiled.capacity
        rows = [built.data.batch(call * most + i, (0, 1)) for i in range(most)]
        batches = program.stack(rows, most, built.placement)
        return jax.block_until_ready(compiled.run(state, batches, np.int32(min(STEPS, most))))[0]

    stepped(made(), 0)
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    state = made()
    rise = status("VmHWM") - before
    for call in range(CALLS):
        state = stepped(state, call)
    print(json.dumps({"before": before, "made": rise, "took": status("VmHWM") - before}))


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
    return {**said[0], "planned": said[1]["device_bytes"] + said[1]["batch_bytes"]}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipes", nargs="*", help=", ".join(RECIPES))
    args = parser.parse_args()
    print("| recipe | before | planned | made | took | planned / took |")
    print("|---|---|---|---|---|---|")
    for name in args.recipes or RECIPES:
        found = measured(RECIPES[name])
        cells = [f"{found[k] / MB:.0f} MB" for k in ("before", "planned", "made", "took")]
        print(
            f"| {name} | {' | '.join(cells)} | {found['planned'] / found['took']:.2f} |", flush=True
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2:])
    else:
        main()
