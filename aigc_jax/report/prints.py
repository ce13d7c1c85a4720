"""Reads RUN/fingerprints.jsonl: for each step, one number a tensor of what went into it."""

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from aigc_jax.report.table import table

GROUPS = {
    "batch": "the batch",
    "key": "the key",
    "hyper": "hyper",
    "params": "the parameters",
    "vars": "the variables",
    "opt": "the optimizer's state",
    "ema": "the averages",
}
"""What tensors are parts of, by the first word of their names, in the order of telling."""

_DIGITS = 8


class Tensors(NamedTuple):
    """What the rows of one start hold, in their order: names ("params/model/kernel") and kinds
    ("float32[3,4]").
    """

    names: tuple[str, ...]
    kinds: tuple[str, ...]


class Prints(NamedTuple):
    """The fingerprints of a run.

    Attributes:
      rows: step -> what it holds, and the digits of all tensors one after another.
      starts: the steps from which it was started.
      every: the steps between two rows.
    """

    rows: dict[int, tuple[Tensors, str]]
    starts: list[int]
    every: int

    def row(self, step: int) -> dict[str, str]:
        """Returns {name: eight digits} of a step that is there."""
        tensors, digits = self.rows[step]
        return {name: digits[_DIGITS * i :][:_DIGITS] for i, name in enumerate(tensors.names)}


def read(run: Path) -> Prints:
    """Reads the fingerprints of a run folder; without rows where it has none.

    A last line that is only half there is left out.
    """
    prints = Prints({}, [], 1)
    file = run / "fingerprints.jsonl"
    tensors = Tensors((), ())
    for line in file.read_bytes().split(b"\n") if file.is_file() else []:
        try:
            row: dict[str, Any] = json.loads(line)
            step = int(row["step"])
        except (ValueError, KeyError, TypeError):
            continue
        if "tensors" in row:
            names, kinds = zip(*(text.split(" ", 1) for text in row["tensors"]), strict=True)
            tensors = Tensors(names, kinds)
            prints.starts.append(step)
            prints = prints._replace(every=int(row["every"]))
        elif len(row.get("prints", "")) == _DIGITS * len(tensors.names):
            prints.rows[step] = (tensors, row["prints"])
    return prints


def group(name: str) -> str:
    """The part that a tensor belongs to: "params" for "params/model/kernel"."""
    return name.split("/", 1)[0]


def whole(digits: Sequence[str]) -> str:
    """Returns eight digits for several fingerprints together."""
    return f"{zlib.crc32(' '.join(digits).encode()):08x}"


def overview(prints: Prints, states: Mapping[int, Mapping[str, str]]) -> str:
    """Returns a table of all steps, with eight digits for each part, and of all checkpoints.

    Args:
      states: step of a checkpoint -> {name: eight digits}.
    """
    found = {group(name) for tensors, _ in prints.rows.values() for name in tensors.names}
    found |= {group(name) for row in states.values() for name in row}
    parts = [part for part in GROUPS if part in found]

    def line(head: str, row: Mapping[str, str]) -> list[str]:
        cells = [[digits for name, digits in row.items() if group(name) == p] for p in parts]
        return [head, *(whole(cell) if cell else "" for cell in cells)]

    rows = [line(str(step), prints.row(step)) for step in sorted(prints.rows)]
    rows += [line(f"checkpoint {step}", states[step]) for step in sorted(states)]
    return table(["step", *parts], rows)


def one_step(prints: Prints, state: Mapping[str, str], step: int) -> str:
    """Returns every tensor of a step: as it was written down, and as its checkpoint has it.

    Args:
      state: {name: eight digits} of the checkpoint of this step; empty without one.
    """
    row = prints.row(step) if step in prints.rows else {}
    names = [*row, *(name for name in state if name not in row)]
    both = [name for name in row if name in state]
    wide = max(map(len, names))
    lines = [f"{'tensor':{wide}}  step {step:<5}checkpoint".rstrip()]
    lines += [f"{n:{wide}}  {row.get(n, ''):8}  {state.get(n, '')}".rstrip() for n in names]
    if both:
        wrong = [name for name in both if row[name] != state[name]]
        lines.append(
            f"The checkpoint differs from what went into step {step}: {', '.join(wrong[:3])}."
            if wrong
            else f"The checkpoint is what went into step {step}: all {len(both)} tensors agree."
        )
    return "\n".join(lines)
