"""What a run compiled, in words; the rows are those of RUN/compiles.jsonl."""

from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]

_PARTS = ("trace", "lower", "compile")
_LISTED = 3  # arrays in a message


def reason(before: Row | None, now: Row) -> str:
    """Says why a function was compiled: "first", or in what it differs from the time before.

    Args:
      before: the row of the same function, compiled for the same line of code; None without one.
      now: the new row. Of both, "arrays" and "placement" are read.
    """
    if before is None:
        return "first"
    old, new = list(before["arrays"]), list(now["arrays"])
    if len(old) != len(new):
        return f"{len(new)} arrays, before {len(old)}"
    changed = [
        f"array {i} is {b}, before {a}"
        for i, (a, b) in enumerate(zip(old, new, strict=True))
        if a != b
    ]
    if changed:
        more = f" and {len(changed) - _LISTED} more" if len(changed) > _LISTED else ""
        return ", ".join(changed[:_LISTED]) + more
    if before["placement"] != now["placement"]:
        return "the same shapes, placed on the devices in another way"
    return "the same shapes: a static argument, or the function itself, is a new one"


def seconds(row: Row) -> float:
    """Returns how long a program took to trace, lower and compile."""
    return sum(float(row[f"{part}_s"]) for part in _PARTS)


def sentence(rows: Sequence[Row]) -> str:
    """Sums up rows in one line; "" for none."""
    if not rows:
        return ""
    parts = ", ".join(
        f"{part} {sum(float(row[f'{part}_s']) for row in rows):.1f}" for part in _PARTS
    )
    programs = "1 program" if len(rows) == 1 else f"{len(rows)} programs"
    words = f"compiled {programs} in {sum(map(seconds, rows)):.1f} s ({parts})"
    hits = [row for row in rows if row["cache"] == "hit"]
    if hits:
        saved = sum(float(row["saved_s"]) for row in hits)
        words += f", {len(hits)} of them from the cache, which saved {max(0.0, saved):.1f} s"
    again = [row for row in rows if row["again"]]
    if again:
        names = dict.fromkeys(str(row["name"]) for row in again)
        words += f"; {len(again)} again after warm-up: {', '.join(names)}"
    return words
