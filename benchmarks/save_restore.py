"""What an asynchronous save costs the steps beside it, and how fast a state is read back.

    python benchmarks/save_restore.py            # GPT-2 124M's shapes, 1 row of 64 tokens, float32

One process. Steps without a save and steps during one take turns: in each round some steps alone,
then a save begins and steps go on until its files are complete and sealed, as the loop does it.
What `save` itself takes before it returns (copying the state out of the donated buffers) is told
apart: it comes once a save, whatever the number of steps.

Then the newest checkpoint is restored and its files are read by plain `read`, by turns, each time
after they were dropped from the page cache (fsync and posix_fadvise; where the kernel keeps them
all the same, both are faster than the disk). A restore checks the seal, the SHA-256 of all files,
as it does in a run.

Prints tables in Markdown. The shapes do not depend on a text: batches are drawn.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

GPT2 = {"layers": 12, "heads": 12, "width": 768}
VOCABULARY = 50257
_BLOCK = 1 << 22


class Steps:
    """Steps of a GPT as the loop takes them, one a call. state: as it is now."""

    def __init__(self, model: dict[str, Any], rows: int, context: int) -> None:
        from aigc_jax.cli import wire

        wire.start_jax()
        import jax

        from aigc_jax.core import optim
        from aigc_jax.data.base import ArraySpec, Spec
        from aigc_jax.tasks import lm
        from aigc_jax.train import guard, program, sharding

        size = (rows, context)
        kinds = {"inputs": "int32", "targets": "int32", "mask": "float32"}
        spec = Spec(
            {name: ArraySpec(size, kind) for name, kind in kinds.items()},
            {"vocab_size": VOCABULARY, "context": context,
             "token_bytes": np.ones(VOCABULARY, np.int32)},
        )  # fmt: skip
        task = lm.make(spec, optim.make(1000), {"name": "transformer", **model})
        numbers = {**optim.HYPER, **lm.HYPER}
        hyper = {name: np.float32(value) for name, value in numbers.items()}
        self.placement = sharding.make()
        self.init = guard.guarded_init(task.init)
        step = guard.guarded_step(task.step, policy="stop", spike=0.0)
        self.state = sharding.create(self.placement, self.init, jax.random.key(0), hyper)
        self.abstract = jax.eval_shape(lambda s: s, self.state)
        shapes = {n: jax.ShapeDtypeStruct(a.shape, a.dtype) for n, a in spec.arrays.items()}
        self._program = program.build(step, self.abstract, shapes, self.placement, 1)
        tokens = np.random.default_rng(0).integers(0, VOCABULARY, (rows, context + 1), np.int32)
        row = {"inputs": tokens[:, :-1], "targets": tokens[:, 1:], "mask": np.ones(size, "float32")}
        self._batch = program.stack([row], 1, self.placement)

    def take(self) -> float:
        """Takes a step; returns its seconds."""
        import jax

        begin = time.perf_counter()
        self.state, metrics = self._program.run(self.state, self._batch, np.int32(1))
        jax.block_until_ready((self.state, metrics))
        return time.perf_counter() - begin


def saving(steps: Steps, folder: Path, alone: int, rounds: int) -> list[dict[str, Any]]:
    """Takes steps without a save and during one, by turns."""
    from aigc_jax.train.checkpoint import Checkpoints

    steps.take()
    rows = []
    checkpoints = Checkpoints(folder, keep=1)
    for _ in range(rounds):
        quiet = [steps.take() for _ in range(alone)]
        begin = time.perf_counter()
        checkpoints.save(steps.state, {}, {})
        blocked = time.perf_counter() - begin
        busy: list[float] = []
        while checkpoints.busy():
            busy.append(steps.take())
        lasted = time.perf_counter() - begin
        rows.append({"quiet": quiet, "blocked": blocked, "busy": busy, "lasted": lasted})
    checkpoints.finish()
    checkpoints.close()
    return rows


def files(folder: Path) -> Iterator[Path]:
    """Yields all files of the newest checkpoint."""
    newest = max((p for p in folder.iterdir() if p.name.isdigit()), key=lambda p: int(p.name))
    return (p for p in newest.rglob("*") if p.is_file())


def drop(folder: Path) -> None:
    """Asks the kernel to forget what it holds of the files."""
    for path in files(folder):
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def plain(folder: Path) -> float:
    """Seconds of reading the files, one after another, into one buffer."""
    drop(folder)
    buffer = bytearray(_BLOCK)
    begin = time.perf_counter()
    for path in files(folder):
        with open(path, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    return time.perf_counter() - begin


def restored(steps: Steps, folder: Path) -> float:
    """Seconds of restoring the newest checkpoint, its seal checked."""
    import jax

    from aigc_jax.train.checkpoint import Checkpoints

    checkpoints = Checkpoints(folder, read_only=True)
    where = steps.placement.state(steps.abstract)
    drop(folder)
    begin = time.perf_counter()
    found = checkpoints.restore(steps.abstract, where)
    assert found is not None
    jax.block_until_ready(found[0])
    seconds = time.perf_counter() - begin
    checkpoints.close()
    return seconds


def quartiles(values: list[float]) -> str:
    """The median and the quartiles of values."""
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--context", type=int, default=64)
    parser.add_argument("--layers", type=int, default=GPT2["layers"])
    parser.add_argument("--alone", type=int, default=6, help="steps without a save, in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", default="", help="on the disk in question; default: a new one")
    args = parser.parse_args()
    folder = Path(args.folder or tempfile.mkdtemp(prefix="save_restore-"))
    try:
        steps = Steps({**GPT2, "layers": args.layers}, args.rows, args.context)
        rows = saving(steps, folder / "checkpoints", args.alone, args.rounds)
        size = sum(p.stat().st_size for p in files(folder / "checkpoints"))
        quiet = [statistics.median(row["quiet"]) for row in rows]
        ratios = [statistics.mean(row["busy"]) / q for row, q in zip(rows, quiet, strict=True)]
        what = f"{args.layers} layers, {args.rows} x {args.context} tokens"
        print(f"{what}: {size / 1e6:.0f} MB a save, {len(rows)} rounds\n")
        print("| s a step alone | during a save, times that (quartiles) | steps in a save"
              " | until it is sealed, s | `save` returns after, s |")  # fmt: skip
        print("|---|---|---|---|---|")
        print(
            f"| {statistics.median(quiet):.2f} | {quartiles(ratios)}"
            f" | {statistics.median(len(row['busy']) for row in rows)}"
            f" | {statistics.median(row['lasted'] for row in rows):.1f}"
            f" | {statistics.median(row['blocked'] for row in rows):.2f} |\n"
        )
        pairs = []
        for _ in range(args.rounds):
            pairs.append((plain(folder / "checkpoints"), restored(steps, folder / "checkpoints")))
        shares = [read / whole for read, whole in pairs]
        print("| plain read, MB/s | restore, MB/s | share (quartiles) |\n|---|---|---|")
        speeds = [[size / 1e6 / seconds for seconds in pair] for pair in pairs]
        print(
            f"| {statistics.median(s[0] for s in speeds):.0f}"
            f" | {statistics.median(s[1] for s in speeds):.0f} | {quartiles(shares)} |"
        )
    finally:
        if not args.folder:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
