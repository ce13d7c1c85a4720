"""`aigc augment CLASSIFIER --with=RUN`: are a model's samples worth anything as training data?"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aigc_jax.cli import front, together, train, wire
from aigc_jax.core import config
from aigc_jax.errors import UserError
from aigc_jax.report import statistics


def add(subparsers: Any) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "augment",
        help="a classifier's accuracy with and without samples of a generative run",
        description="Trains the classifier of a recipe with several seeds twice: on its data, and"
        " with a share of each batch replaced by samples of the run, drawn by class. Give it little"
        " data, --config.data.train_share=0.01, to see what the samples add.",
    )
    front.add_config_arguments(parser)
    parser.add_argument("--with", dest="source", type=Path, required=True, metavar="RUN",
                        help="a run that draws images by class")  # fmt: skip
    parser.add_argument("--samples", type=int, default=10_000, metavar="N",
                        help="drawn once, for all seeds (default: 10000)")  # fmt: skip
    parser.add_argument("--share", type=float, default=0.5, metavar="P",
                        help="of each batch (default: 0.5)")  # fmt: skip
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="(default: 5)")
    parser.add_argument("--workdir", type=Path, help="(default: runs/RECIPE-augmented)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Trains both and compares them seed by seed."""
    if not 0 < args.share <= 1:
        raise UserError(f"--share={args.share}: expected a number above 0 and at most 1.")
    if args.samples < 1 or args.seeds < 2:
        raise UserError(
            f"--samples={args.samples}, --seeds={args.seeds}: expected 1 or more samples, and 2 or"
            " more seeds."
        )
    name = train.default_workdir(args.config, False).name
    root = args.workdir or Path("runs") / f"{name}-augmented"
    steps = config.to_dict(config.load(args.config, args.overrides))["run"]["steps"]
    x, label, names = _samples(args.source, args.samples)

    arms: dict[str, Callable[[Any, int], Any] | None] = {
        "real": None,
        "augmented": lambda data, seed: _mixed(data, seed, x, label, names, args.share),
    }
    found: dict[str, list[float]] = {}
    for arm, mixed in arms.items():
        code, planned = together.seeds(args.config, args.overrides, args.seeds, root / arm, mixed)
        if code:
            return code
        folders = [trial.workdir for trial in planned]
        found[arm] = [_accuracy(folder, steps) for folder in folders]
        print(f"{arm:10} accuracy {_shown(found[arm])}")
    gaps = [b - a for a, b in zip(found["real"], found["augmented"], strict=True)]
    print(f"difference, seed by seed: {_shown(gaps, sign='+')}")
    return 0


def _samples(source: Path, number: int) -> tuple[Any, Any, list[str]]:
    """Draws images by class; float32 [N, H, W, C], int32 [N], and the classes' names."""
    done = wire.trained(source)
    import jax
    import numpy as np

    sample = done.parts.task.sample
    classes = getattr(sample, "classes", 0)
    if not classes:
        raise UserError(f"{source} draws no images by class; train one with labels.")
    label = (np.arange(number) % classes).astype(np.int32)
    names = list(done.parts.data.spec.facts.get("class_names", ()))
    return sample(done.weights, jax.random.key(0), number=number, label=label), label, names


def _mixed(
    data: Any, seed: int, x: Any, label: Any, names: list[str], share: float
) -> Callable[[int], Any]:
    """Returns batches of which a share of the rows, by (seed, step), are samples."""
    import numpy as np

    shape = data.spec.arrays["x"].shape
    if x.shape[1:] != tuple(shape[1:]) or "label" not in data.spec.arrays:
        raise UserError(
            f"--with: its images are {list(x.shape[1:])}, the classifier's {list(shape[1:])}; both"
            " need the same size and labels."
        )
    own = list(data.spec.facts.get("class_names", ()))
    if names != own:
        raise UserError(
            f"--with: its classes are {', '.join(names)}; the classifier's are {', '.join(own)}."
            " Both need the same ones in the same order."
        )
    replaced = round(share * shape[0])

    def batch_at(step: int) -> dict[str, Any]:
        batch = dict(data.batch(step, (0, 1)))
        draw = np.random.Generator(np.random.Philox(key=seed, counter=step << 64))
        chosen = draw.integers(0, len(x), replaced)
        for name, pool in (("x", x), ("label", label)):
            rows = batch[name].copy()
            rows[:replaced] = pool[chosen]
            batch[name] = rows
        return batch

    return batch_at


def _accuracy(folder: Path, steps: int) -> float:
    """The last accuracy on a part of the data that is held out."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    found = [
        value
        for row in rows
        for name, value in row.items()
        if row["step"] == steps and name.endswith("/accuracy") and not name.startswith("train/")
    ]
    if not found:
        raise UserError(f"{folder} measures no accuracy: the recipe is to be a classifier's.")
    return float(found[-1])


def _shown(values: list[float], sign: str = "") -> str:
    mean, low, high = statistics.interval(values)
    return f"{mean:{sign}.4f} ± {(high - low) / 2:.4f} (95 %, {len(values)} seeds)"
