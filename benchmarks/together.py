"""Many trials as one program against the same trials one after another.

    python benchmarks/together.py                                  # 16 learning rates of a tiny model
    python benchmarks/together.py --recipe=configs/gan/grid.py --vary=run.seed=0,1,2,3,4,5,6,7,8,9 --steps=2000 --metric=modes/found

Whole commands, from start to end: Python, imports, compiling, data, steps, evaluations, saves, with
a warm compilation cache (each way is run once before, briefly). The ways: one program, its trials
spread over a device for each core (`aigc sweep`); one program on one device; one warm process (the
local engine with one worker); one process a trial (`aigc train`). The first three are timed before
and after the processes.
"""  # noqa: E501

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RECIPE = """
import importlib.util, sys
sys.path.insert(0, {home!r})
spec = importlib.util.spec_from_file_location("varied", {path!r})
varied = importlib.util.module_from_spec(spec)
spec.loader.exec_module(varied)

def get_config(arg=None):
    return varied.get_config() if arg is None else varied.get_config(arg)

def get_sweep(h):
    return h.grid({name!r}, {values!r})
"""
RATES = tuple(f"{3e-4 * 10 ** (2 * i / 15):.3g}" for i in range(16))


class Ways:
    """The commands, all with the same settings."""

    def __init__(self, folder: Path, args: argparse.Namespace) -> None:
        self.folder, self.settings = folder, [f"--config.{word}" for word in args.set]
        self.judged = [f"--metric={args.metric}"] if args.metric else []
        path, _, self.arg = args.recipe.partition(":")
        name, _, values = args.vary.partition("=")
        self.name, self.values = name, [float(v) if "." in v else int(v) for v in values.split(",")]
        home = str(Path(path).resolve().parents[2])
        text = RECIPE.format(home=home, path=str(Path(path).resolve()), name=name,
                             values=self.values)  # fmt: skip
        self.recipe = folder / "varied.py"
        self.recipe.write_text(text)
        self.count = 0

    def aigc(self, command: str, steps: int, *words: str, flags: str = "") -> float:
        """Seconds of one whole command in a folder of its own."""
        self.count += 1
        spec = f"{self.recipe}:{self.arg}" if self.arg else str(self.recipe)
        begin = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "aigc_jax.cli.main", command, spec, *self.settings,
             f"--config.run.steps={steps}", "--config.run.tensorboard=False", *words,
             f"--workdir={self.folder}/{self.count}"],
            check=True, stdout=subprocess.DEVNULL,
            env={**os.environ, "XDG_CACHE_HOME": str(self.folder / "cache"), "XLA_FLAGS": flags},
        )  # fmt: skip
        return time.perf_counter() - begin

    def together(self, steps: int) -> float:
        """One program, which spreads its trials over the cores."""
        return self.aigc("sweep", steps, "--engine=vectorised", *self.judged)

    def narrow(self, steps: int) -> float:
        """One program on one device."""
        flags = "--xla_force_host_platform_device_count=1"
        return self.aigc("sweep", steps, "--engine=vectorised", *self.judged, flags=flags)

    def warm(self, steps: int) -> float:
        """One process, one trial after another."""
        return self.aigc("sweep", steps, "--engine=local", "--workers=1", *self.judged)

    def alone(self, steps: int, value: float) -> float:
        """One trial in a process of its own."""
        return self.aigc("train", steps, f"--config.{self.name}={value}")


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--recipe", default="configs/lm/tiny_shakespeare.py")
    parser.add_argument("--vary", default=f"hyper.lr={','.join(RATES)}", metavar="PATH=V,V,...")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--metric", default="", help="what trials are judged by")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE",
                        help="a setting of all, as data.path=INPUT.TXT")  # fmt: skip
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ways = Ways(Path(folder), args)
        arms = {"one program": ways.together, "one program on one device": ways.narrow,
                "one warm process": ways.warm}  # fmt: skip
        for run in arms.values():
            run(10)
        ways.alone(10, ways.values[0])
        before = {name: run(args.steps) for name, run in arms.items()}
        each = [ways.alone(args.steps, value) for value in ways.values]
        after = {name: run(args.steps) for name, run in arms.items()}
    total, number = sum(each), len(each)
    settings = " ".join(args.set)
    print(
        f"{args.recipe} {settings}: {number} trials of {args.steps} steps, {os.cpu_count()} cores\n"
    )
    print("| way | seconds | times the processes |\n|---|---|---|")
    for name in arms:
        a, b = before[name], after[name]
        print(f"| {name} | {a:.1f}, {b:.1f} | {total / a:.2f}, {total / b:.2f} |")
    print(f"| {number} processes | {total:.1f}, each {min(each):.1f} to {max(each):.1f} | 1 |")


if __name__ == "__main__":
    main()
