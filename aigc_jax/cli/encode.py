"""`aigc encode RUN`: what a trained model makes of its data: features or codes, and their worth."""

import argparse
from pathlib import Path
from typing import Any

from aigc_jax.cli import wire
from aigc_jax.errors import StorageError, UserError

MAPPED = 2000  # examples on the map


def add(subparsers: Any) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "encode", help="features or codes of the data by a run, and what they are good for"
    )
    parser.add_argument("run_folder", metavar="RUN", type=Path)
    parser.add_argument(
        "--what", metavar="NAME", help="features or codes (default: codes where there are any)"
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        help="writes train.npy, train_labels.npy, validation.npy, ...",
    )
    parser.add_argument(
        "--limit",
        type=int,
        default=0,
        metavar="N",
        help="only the first N examples of each part; 0 for all (default: 0)",
    )
    parser.add_argument(
        "--judge",
        action="store_true",
        help="linear probe and k-means on them, on pixels and on PCA",
    )
    parser.add_argument(
        "--map",
        type=Path,
        metavar="FILE",
        help=f"a .png of at most {MAPPED} validation examples in the plane",
    )
    parser.add_argument("--step", type=int, help="the checkpoint (default: the newest)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Encodes."""
    if not (args.output or args.judge or args.map):
        raise UserError("aigc encode: expected --output=FOLDER, --judge or --map=FILE.")
    if args.limit < 0:
        raise UserError(f"--limit={args.limit}: expected 0 (all) or more.")
    if args.map and args.map.suffix != ".png":
        raise UserError(f"--map={args.map}: expected a file ending in .png.")
    done = wire.trained(args.run_folder, args.step)
    functions = done.parts.task.functions
    what = args.what or ("codes" if "codes" in functions else "features")
    if what not in functions or what not in ("features", "codes"):
        known = [name for name in ("features", "codes") if name in functions]
        raise UserError(
            f"{args.run_folder}: its task makes no {what}; it makes"
            f" {' and '.join(known) or 'nothing of the kind'}."
        )
    parts = {
        split: _encoded(done, functions[what], split, args.limit)
        for split in done.parts.data.splits
    }
    if args.output:
        _write(args.output, parts)
    if args.judge:
        _judge(parts, what)
    if args.map:
        _map(args.map, parts["validation"])
    return 0


class _Part(dict[str, Any]):
    """Arrays of a split by name: "encoded" [N, ...], "x" [N, D], and "label" [N] if any."""


def _encoded(done: Any, function: Any, split: str, limit: int) -> _Part:
    import jax
    import numpy as np

    compiled, part = jax.jit(function), done.parts.data.splits[split]
    found: dict[str, list[Any]] = {}
    count = 0
    for i in range(part.batches):
        batch = part.batch(i, (0, 1))
        rows = batch["mask"] > 0
        encoded = np.asarray(compiled(done.weights, batch))[rows]
        found.setdefault("encoded", []).append(encoded)
        found.setdefault("x", []).append(batch["x"][rows].reshape(len(encoded), -1))
        if "label" in batch:
            found.setdefault("label", []).append(batch["label"][rows])
        count += len(encoded)
        if limit and count >= limit:
            break
    return _Part({name: np.concatenate(x)[: limit or None] for name, x in found.items()})


def _write(folder: Path, parts: dict[str, _Part]) -> None:
    import numpy as np

    try:
        folder.mkdir(parents=True, exist_ok=True)
        for split, part in parts.items():
            np.save(folder / f"{split}.npy", part["encoded"])
            if "label" in part:
                np.save(folder / f"{split}_labels.npy", part["label"])
            print(f"{folder / split}.npy: {part['encoded'].dtype}{list(part['encoded'].shape)}")
    except OSError as error:
        raise StorageError(f"--output={folder} can't be written: {error.strerror}.") from None


def _judge(parts: dict[str, _Part], what: str) -> None:
    from aigc_jax.metrics import probe

    train, judged = parts["train"], parts["validation"]
    if "label" not in train:
        raise UserError("--judge needs labels, and this data has none.")
    features = [part["encoded"].reshape(len(part["encoded"]), -1) for part in (train, judged)]
    size = features[0].shape[1]
    rows = {
        f"{what} of the model ({size})": features,
        f"pixels ({train['x'].shape[1]})": [train["x"], judged["x"]],
        f"principal components ({min(size, *train['x'].shape)})": list(
            probe.principal(train["x"], judged["x"], size)
        ),
    }
    print(f"{len(features[0])} examples to fit, {len(features[1])} to judge")
    print(f"{'':36} {'linear probe':>13} {'k-means purity':>15} {'NMI':>7}")
    for name, (fit, seen) in rows.items():
        found = probe.probed(fit, train["label"], seen, judged["label"])
        print(f"{name:36} {found.probe:13.4f} {found.purity:15.4f} {found.nmi:7.4f}")


def _map(path: Path, part: _Part) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from aigc_jax.metrics import probe

    encoded = part["encoded"][:MAPPED]
    places = probe.flat_map(encoded.reshape(len(encoded), -1).astype("float64"))
    figure = Figure(figsize=(7, 7), dpi=130)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    label = part["label"][:MAPPED] if "label" in part else None
    told = {} if label is None else {"c": label, "cmap": "tab10"}
    drawn = axes.scatter(places[:, 0], places[:, 1], s=7, **told)
    if label is not None:
        axes.legend(*drawn.legend_elements(), loc="upper right", fontsize=8, frameon=False)
    axes.set_axis_off()
    try:
        figure.savefig(path, format="png")
    except OSError as error:
        raise StorageError(f"--map={path} can't be written: {error.strerror}.") from None
    print(f"{path}: {len(encoded)} examples")
