"""What a run compiled, read back from RUN/compiles.jsonl."""

import json
from typing import Any

from aigc_jax.core.compiles import seconds, sentence
from aigc_jax.report.folder import Run


def rows(run: Run) -> list[dict[str, Any]]:
    """Returns one row a compiled program, in their order, over all starts of the run.

    Each has "start" (1 is the first), "step", "name", "by" (the line of code), "trace_s",
    "lower_s", "compile_s", "cache" ("hit", "miss" or "off"), "saved_s" (what a hit saved), "arrays"
    (dtypes and shapes of what went in), "why", and "again" (compiled once more after warm-up).
    A line that is only half there is left out.
    """
    file = run.path / "compiles.jsonl"
    found = []
    for line in file.read_bytes().split(b"\n") if file.is_file() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and "name" in row:
            found.append(row)
    return found


def summary(run: Run) -> str:
    """Returns one line on all that the run compiled: how much, how long, what the cache saved and
    what was compiled again; "" where it wrote nothing down.
    """
    return sentence(rows(run))


def dearest(run: Run, number: int = 8) -> list[tuple[str, str, str, str, str]]:
    """Returns the programs that took longest, and all that were compiled again.

    Returns:
      (name, line of code, seconds, step, why) each, for a table.
    """
    every = rows(run)
    by_time = sorted(every, key=seconds, reverse=True)[:number]
    chosen = [row for row in every if row["again"] or row in by_time]
    return [
        (
            str(row["name"]),
            str(row["by"]),
            f"{seconds(row):.2f}" + (" (from the cache)" if row["cache"] == "hit" else ""),
            str(row["step"]),
            str(row["why"]),
        )
        for row in sorted(chosen, key=seconds, reverse=True)
    ]
