"""The transformer's options, one changed at a time, at equal training FLOPs.

    python experiments/transformer_options.py --text=INPUT.TXT --folder=runs/options

Each row is `configs/lm/shakespeare_modern.py` with one setting changed, trained for as many steps
as the FLOPs allow (counted in the compiled step, the optimizer's products included), for a few
seeds. What is there already is not run again, so the command may be stopped and repeated; the table
is printed after the last run.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
from pathlib import Path

RECIPE = "configs/lm/shakespeare_modern.py"
MODEL = "--config.task.model."
ADAMW = (
    "--config.optim.name=adamw",
    "--config.optim.args=()",
    "--config.optim.rules=(('(bias|scale)$', {'label': 'vectors', 'decay': 0.0}),"
    " ('.*', {'label': 'matrices'}))",
)
VARIANTS: dict[str, tuple[str, ...]] = {
    "the recipe": (),
    "AdamW instead of Muon, lr 4e-3": (*ADAMW, "--config.hyper.lr=4e-3"),
    "AdamW instead of Muon, lr 2e-3": (*ADAMW, "--config.hyper.lr=2e-3"),
    "learned positions": (MODEL + "positions=learned",),
    "ALiBi": (MODEL + "positions=alibi",),
    "sinusoidal positions": (MODEL + "positions=sinusoidal",),
    "no positions": (MODEL + "positions=none",),
    "layer norm": (MODEL + "norm=layernorm",),
    "norm after the sum": (MODEL + "norm_place=post",),
    "exact GELU": (MODEL + "mlp=gelu",),
    "ReLU squared": (MODEL + "mlp=relu2",),
    "no qk-norm": (MODEL + "qk_norm=False",),
    "one head of keys and values": (MODEL + "kv_heads=1",),
    "window of 16": (MODEL + "window=16",),
    "projections not from zero": (MODEL + "zero_init=False",),
    "output layer of its own": (MODEL + "tied=False",),
    "logits capped at 15": (MODEL + "logit_cap=15.0",),
}


def aigc(*words: str) -> str:
    """Runs a command of the package and returns what it printed."""
    command = [sys.executable, "-m", "aigc_jax.cli.main", *words]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def scored(run: Path) -> float | None:
    """The validation loss at the end of a run, or None."""
    try:
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        steps = json.loads((run / "config.json").read_text())["run"]["steps"]
    except (OSError, ValueError):
        return None
    found = [row["validation/loss"] for row in rows if row.get("step") == steps
             and "validation/loss" in row]  # fmt: skip
    return float(found[-1]) if found else None


def slug(name: str) -> str:
    """A folder's name."""
    return "".join(c if c.isalnum() else "_" for c in name)


def main() -> None:
    """Runs what is missing, then prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", required=True, help="path of tinyshakespeare's input.txt")
    parser.add_argument("--folder", type=Path, default=Path("runs/options"))
    parser.add_argument("--flops", type=float, default=2.6e12, help="of training, each run")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", help="rows by name")
    args = parser.parse_args()

    wanted = {n: v for n, v in VARIANTS.items() if args.only is None or n in args.only}
    scores: dict[str, list[float]] = {}
    steps_of: dict[str, int] = {}
    # Seeds outside, so that a study cut short has each row once rather than some rows thrice.
    for seed in range(args.seeds):
        for name, changes in wanted.items():
            common = [RECIPE, f"--config.data.path={args.text}", *changes]
            run = args.folder / f"{slug(name)}_{seed}"
            if name not in steps_of:
                plan = json.loads(aigc("plan", *common, "--steps=0", "--json"))
                steps_of[name] = int(args.flops // plan["flops_a_step"])
            if scored(run) is None:
                aigc("train", *common, f"--config.run.seed={seed}", f"--workdir={run}",
                     f"--config.run.steps={steps_of[name]}",
                     "--config.run.eval_every=1000000", "--config.run.save_every=1000000",
                     )  # fmt: skip
            loss = scored(run)
            assert loss is not None, f"{run} has no score"
            scores.setdefault(name, []).append(loss)
            print(f"# {name}, seed {seed}: {loss:.4f} after {steps_of[name]} steps", flush=True)
    table(scores, steps_of)


def table(scores: dict[str, list[float]], steps_of: dict[str, int]) -> None:
    """Prints the rows, with the difference to the recipe seed by seed."""
    base = scores["the recipe"]
    print("\n| changed | steps | validation loss | against the recipe (standard error) |")
    print("|---|---|---|---|")
    for name, found in sorted(scores.items(), key=lambda item: statistics.mean(item[1])):
        gaps = [a - b for a, b in zip(found, base, strict=False)]
        gap = f"{statistics.mean(gaps):+.3f}"
        if len(gaps) > 1:
            gap += f" ({statistics.stdev(gaps) / math.sqrt(len(gaps)):.3f})"
        if name == "the recipe":
            gap = ""
        print(f"| {name} | {steps_of[name]} | {statistics.mean(found):.3f} | {gap} |")


if __name__ == "__main__":
    main()
