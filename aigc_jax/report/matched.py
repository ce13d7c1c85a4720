"""Two sweeps at the settings that both have tried: pairs of configurations, and who wins them.

The best of one against the best of the other says which to use once it is tuned; this says which is
better at equal settings, and no choice of a best flatters it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from aigc_jax.core.units import LOOP_METRICS, figure
from aigc_jax.report import groups, statistics
from aigc_jax.report.contrast import Group
from aigc_jax.report.folder import Run
from aigc_jax.report.groups import NONE, SEED, Scores
from aigc_jax.report.table import table

_MOST = 20  # pairs in a table


class Pair(NamedTuple):
    """What two folders have at the same swept settings."""

    settings: Mapping[str, Any]
    a: Scores
    b: Scores

    @property
    def seeds(self) -> list[Any]:
        """Those that both have a score of."""
        return [seed for seed in self.a.by_seed if seed in self.b.by_seed]

    def means(self, seeds: Sequence[Any]) -> tuple[float, float]:
        """Of A and of B over these seeds; over all that each has, where none is given."""
        sides = []
        for side in (self.a, self.b):
            values = [side.by_seed[seed] for seed in seeds] or side.values
            sides.append(sum(values) / len(values))
        return sides[0], sides[1]


def matched(
    runs: Sequence[Run], sources: Sequence[str], metrics: Sequence[str]
) -> list[dict[str, Any]]:
    """Compares folders of runs with the first of them, configuration by configuration.

    Two configurations are a pair if they are equal in everything that is varied within either
    folder, the seed aside; in what else the folders differ is what is compared.

    Args:
      runs: those to compare. sources: the folder that was given for each, "" for one given itself.
      metrics: measured alike in all.

    Returns:
      One dict a metric and other folder: "metric", "a", "b" (folders), "pairs" (settings, means,
      number of seeds), "wins" (pairs in which B's mean is better), "left_out" (pairs in which a run
      diverged), "over" ("seeds" or "settings": what the test pairs), "answer", "text", and the
      fields of `statistics.Comparison`. Empty where no folder varies anything, or without pairs.
    """
    by_source: dict[str, list[Group]] = {}
    for source in dict.fromkeys(sources):
        own = [run for run, s in zip(runs, sources, strict=True) if s == source]
        flats = [groups.flat(run.config) for run in own]
        gathered = groups.gathered(
            list(zip(own, flats, strict=True)), [groups.without_seed(one) for one in flats]
        )
        by_source[source] = [
            Group(source, members[0][1], [run for run, _ in members]) for members in gathered
        ]
    if len(by_source) < 2 or "" in by_source:
        return []
    (first, mine), *others = by_source.items()
    judged = [m for m in metrics if not m.startswith(LOOP_METRICS)] or list(metrics)
    level = 1 - (1 - statistics.LEVEL) / len(others)
    found = []
    for metric in judged:
        higher = runs[0].higher_is_better(metric)
        for source, theirs in others:
            pairs = _pairs(mine, theirs, metric)
            if pairs:
                row = {"metric": metric, "a": first, "b": source, "higher_is_better": higher}
                prints = {name for group in (*mine, *theirs) for name in group.data}
                found.append(row | _judged(pairs, higher, level, len(prints) > 1))
    return found


def _pairs(mine: Sequence[Group], theirs: Sequence[Group], metric: str) -> list[Pair]:
    """The configurations of one folder beside those of another, in the order of the first."""
    swept = {
        path
        for side in (mine, theirs)
        for path in groups.varied([group.settings for group in side])
        if path != SEED
    }

    def key(group: Group) -> tuple[str, ...]:
        return tuple(repr(group.settings.get(path, NONE)) for path in sorted(swept))

    there = {key(group): group for group in theirs}
    if not swept:
        return []
    return [
        Pair(
            {path: group.settings.get(path, NONE) for path in sorted(swept)},
            group.scores(metric), there[key(group)].scores(metric),
        )
        for group in mine
        if key(group) in there
    ]  # fmt: skip


def _judged(pairs: list[Pair], higher: bool, level: float, other_data: bool) -> dict[str, Any]:
    """Answers whether B is better over the pairs."""
    good = [p for p in pairs if p.a.by_seed and p.b.by_seed and not p.a.diverged | p.b.diverged]
    means = [pair.means(pair.seeds) for pair in good]
    shown = [
        {"settings": dict(pair.settings), "a": a, "b": b, "seeds": len(pair.seeds)}
        for pair, (a, b) in zip(good, means, strict=True)
    ]
    row: dict[str, Any] = {
        "pairs": shown,
        "wins": sum((b > a) if higher else (b < a) for a, b in means),
        "left_out": sum(p.a.diverged > 0 or p.b.diverged > 0 for p in pairs),
    }
    if other_data or not good:
        why = "they saw different data" if other_data else "no pair has finished runs on both sides"
        return row | {"answer": "not compared", "text": f"not compared: {why}"}
    # A seed does about the same to all settings, so its pairs are one observation and not many.
    seeds = [seed for seed in good[0].seeds if all(seed in pair.seeds for pair in good)]
    over = "seeds" if len(seeds) > 1 or len(good) == 1 else "settings"
    both = means
    if over == "seeds" and seeds:
        columns = [[pair.means([seed]) for pair in good] for seed in seeds]
        both = [
            (sum(a for a, _ in column) / len(column), sum(b for _, b in column) / len(column))
            for column in columns
        ]
    told = statistics.paired([a for a, _ in both], [b for _, b in both], level)
    return row | {
        "over": over,
        "answer": statistics.better(told, higher),
        "text": groups.answer(told, higher, over),
        **told._asdict(),
    }


def as_text(found: Sequence[Mapping[str, Any]]) -> str:
    """Returns what `matched` found as text for a terminal; "" for nothing."""
    parts = []
    for row in found:
        pairs, sign = row["pairs"], "higher" if row["higher_is_better"] else "lower"
        parts.append(
            f"{row['metric']} at the same settings, {sign} is better:\n  is {row['b']} better than"
            f" {row['a']}? {row['text']}"
            + (f"; it is better in {row['wins']} of {len(pairs)} settings" if pairs else "")
        )
        if pairs:
            paths = list(pairs[0]["settings"])
            short = groups.short_names(paths)
            rows = [
                [*(groups.brief(pair["settings"][path]) for path in paths), str(pair["seeds"]),
                 figure(pair["a"]), figure(pair["b"]), f"{pair['b'] - pair['a']:+.4g}"]
                for pair in pairs[:_MOST]
            ]  # fmt: skip
            head = [*(short[path] for path in paths), "seeds", row["a"], row["b"], "difference"]
            parts.append(table(head, rows))
        if len(pairs) > _MOST:
            parts.append(f"{len(pairs) - _MOST} more settings are not shown.")
        if row["left_out"]:
            parts.append(
                f"warning: {row['left_out']} settings in which a run ended without a finite"
                f" {row['metric']} are left out."
            )
    return "\n\n".join(parts)
