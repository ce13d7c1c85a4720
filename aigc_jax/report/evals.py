"""What `aigc eval` prints: scores between floors and ceilings, and how they were measured."""

from collections.abc import Mapping
from typing import Any

from aigc_jax.report import groups
from aigc_jax.report.compare import brief, show
from aigc_jax.report.folder import Evaluation, Run
from aigc_jax.report.levels import AROUND, around
from aigc_jax.report.table import table

HEAD = ["metric", AROUND[0], "score", AROUND[1]]


def as_text(run: Run, found: Evaluation) -> str:
    """Returns one measurement of a run as a table for a terminal, then its protocols."""
    parts = [f"{run.path} at step {found.step}"]
    rows = scores(run, found)
    parts.append(table(HEAD, rows) if rows else "no evaluator gave a score")
    parts += protocols(found.protocols)
    if found.samples:
        parts.append(f"texts and pictures: {run.path / found.samples}")
    return "\n".join(parts)


def scores(run: Run, found: Evaluation) -> list[list[str]]:
    """Returns a row for each metric of a measurement, with the cells that HEAD names."""
    rows = []
    for metric, value in found.metrics.items():
        higher = run.higher_is_better(metric)
        worse, better = around(value, run.levels(found, metric), higher=higher)
        rows.append([metric, worse, show(value), better])
    return rows


def protocols(protocols: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Returns one line of what all metrics have in common, then one for those that go on alike."""
    flat = {
        metric: [f"{path} {brief(value)}" for path, value in groups.flat(protocol).items()]
        for metric, protocol in protocols.items()
    }
    first = next(iter(flat.values()), [])
    shared = [words for words in first if all(words in other for other in flat.values())]
    alike: dict[str, list[str]] = {}
    for metric, words in flat.items():
        if own := "; ".join(word for word in words if word not in shared):
            alike.setdefault(own, []).append(metric)
    lines = [f"protocol: {'; '.join(shared)}"] if shared else []
    return [*lines, *(f"  {', '.join(names)}: {own}" for own, names in alike.items())]
