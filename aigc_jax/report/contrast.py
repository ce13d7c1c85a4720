"""`aigc compare` over seeds: means, intervals, and whether one configuration beats another."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from aigc_jax.core.units import LOOP_METRICS
from aigc_jax.report import groups, statistics
from aigc_jax.report.folder import Run
from aigc_jax.report.groups import NONE, SEED, Scores
from aigc_jax.report.table import table

_MOST = 20  # configurations in a table, the best
_RIVALS = 5  # of the best within one folder


class Group(NamedTuple):
    """Runs that differ only in their seed, from one source (a place on the command line)."""

    source: str
    settings: Mapping[str, Any]
    runs: Sequence[Run]

    def scores(self, metric: str) -> Scores:
        """Its scores under one metric."""
        rows: list[tuple[Any, str, float | None]] = []
        for run in self.runs:
            if run.diverged:
                rows.append((run.setting(SEED), "finished", math.nan))
                continue
            last = run.last(metric)
            # A score of an earlier step does not compare with those of the last one.
            ended = last is not None and (run.steps is None or last[0] >= run.steps)
            rows.append((run.setting(SEED), run.state, last[1] if last and ended else None))
        return groups.scores(rows)

    @property
    def data(self) -> set[str]:
        """The fingerprints of the data that its runs saw."""
        return {run.fingerprint for run in self.runs if run.fingerprint}


def contrast(runs: Sequence[Run], sources: Sequence[str], metrics: Sequence[str]) -> dict[str, Any]:
    """Sets configurations beside each other, over their seeds.

    Args:
      runs: those to compare.
      sources: where each comes from: the folder that was given for it, "" for one given itself.
      metrics: measured alike in all.

    Returns:
      {} unless a configuration has two seeds or more. Else "groups" (label, source, settings that
      differ, runs by path), "summaries" (one a metric and group: mean, intervals, seeds),
      "answers" (one a question "is B better than A?"), "warnings".
    """
    flats = [groups.flat(run.config) for run in runs]
    keys = [(s, groups.without_seed(one)) for s, one in zip(sources, flats, strict=True)]
    found = [
        Group(members[0][1], members[0][2], [run for run, _, _ in members])
        for members in groups.gathered(list(zip(runs, sources, flats, strict=True)), keys)
    ]
    seeds = [len({run.setting(SEED) for run in group.runs}) for group in found]
    if max(seeds, default=0) < 2:
        return {}
    judged = [m for m in metrics if not m.startswith(LOOP_METRICS)] or list(metrics)
    higher = {metric: runs[0].higher_is_better(metric) for metric in judged}
    if judged:
        found = _ordered(found, judged[0], higher[judged[0]])
    paths = [path for path in groups.varied([g.settings for g in found]) if path != SEED]
    names = [groups.letter(i) for i in range(len(found))]
    answers, warnings = [], []
    for metric in judged:
        mine = {name: g.scores(metric) for name, g in zip(names, found, strict=True)}
        answers += _answers(metric, higher[metric], dict(zip(names, found, strict=True)), mine)
        warnings += _warnings(metric, mine)
    for source in dict.fromkeys(sources):
        own = [name for name, g in zip(names, found, strict=True) if g.source == source]
        if source and len(own) > 2:
            warnings.append(
                f"the best of the {len(own)} configurations in {source} was chosen by these seeds,"
                " which favours it; new seeds judge it fairly."
            )
    warnings += [
        f"the configurations differ in {path}: they may have been measured differently."
        for path in paths
        if path.startswith("evals.")
    ]
    return {
        "groups": [
            {
                "label": name,
                "source": group.source,
                "settings": {path: group.settings.get(path, NONE) for path in paths},
                "runs": [str(run.path) for run in group.runs],
            }
            for name, group in zip(names, found, strict=True)
        ],
        "summaries": [
            _summary(metric, name, group)
            for metric in judged
            for name, group in zip(names, found, strict=True)
        ],
        "higher_is_better": higher,
        "answers": answers,
        "warnings": warnings,
    }


def _ordered(found: list[Group], metric: str, higher: bool) -> list[Group]:
    """As given; where all come from one folder, the best first."""
    if len({group.source for group in found}) > 1 or not found[0].source:
        return found
    return sorted(found, key=lambda group: _merit(group.scores(metric), higher))


def _merit(found: Scores, higher: bool) -> tuple[bool, bool, float]:
    """Sorts the best first: configurations without a seed that diverged, then those with."""
    if not found.values:
        return True, True, 0.0
    mean = sum(found.values) / len(found.values)
    return False, found.diverged > 0, -mean if higher else mean


def _answers(
    metric: str, higher: bool, found: Mapping[str, Group], scores: Mapping[str, Scores]
) -> list[dict[str, Any]]:
    """Asks of every pair that matters whether B is better than A, A being the one to beat.

    Several folders: the best of each against the best of the first. One folder: the best against
    the next ones. Runs: each configuration against the first. Several questions share the 5 % of
    false answers among them (Bonferroni).
    """
    pairs = _pairs(found, {name: _merit(one, higher) for name, one in scores.items()})
    level = 1 - (1 - statistics.LEVEL) / max(1, len(pairs))
    answers = []
    for a, b in pairs:
        told = groups.against(scores[a], scores[b], level)
        row: dict[str, Any] = {"metric": metric, "a": a, "b": b}
        if len(found[a].data | found[b].data) > 1:
            row |= {"answer": "not compared", "text": "not compared: they saw different data"}
        elif told is None:
            row |= {"answer": "not compared", "text": "not compared: one has no finished run"}
        else:
            answer = statistics.better(told, higher)
            row |= {"answer": answer, "text": groups.answer(told, higher), **told._asdict()}
        answers.append(row)
    return answers


def _pairs(found: Mapping[str, Group], merits: Mapping[str, Any]) -> list[tuple[str, str]]:
    sources = list(dict.fromkeys(group.source for group in found.values()))
    names = list(found)
    if len(sources) > 1:
        best = [
            min((n for n in names if found[n].source == source), key=lambda n: merits[n])
            for source in sources
        ]
        return [(best[0], other) for other in best[1:]]
    if sources[0]:
        first, *others = sorted(names, key=lambda n: merits[n])
        return [(other, first) for other in others[:_RIVALS]]
    return [(names[0], other) for other in names[1:]]


def _summary(metric: str, name: str, group: Group) -> dict[str, Any]:
    found = group.scores(metric)
    row: dict[str, Any] = {"metric": metric, "group": name, "seeds": len(found.values)}
    row |= {
        "diverged": found.diverged,
        "unfinished": sum(r.state != "finished" and not r.diverged for r in group.runs),
    }
    if found.values:
        row["mean"], *row["interval_95"] = statistics.interval(found.values)
        row["bootstrap_95"] = list(statistics.bootstrap(found.values)[1:])
    return row


def _warnings(metric: str, scores: Mapping[str, Scores]) -> list[str]:
    said = []
    for name, one in scores.items():
        if one.diverged:
            said.append(
                f"{name}: {one.diverged} ended without a finite {metric}; they are in no mean,"
                " which flatters it."
            )
        if one.repeats:
            said.append(f"{name}: {one.repeats} runs repeat a seed; the first of each counts.")
    return said


def as_text(found: Mapping[str, Any]) -> str:
    """Returns what `contrast` found as tables for a terminal."""
    shown = {group["label"] for group in found["groups"][:_MOST]}
    shown |= {row[side] for row in found["answers"] for side in ("a", "b")}
    listed = [group for group in found["groups"] if group["label"] in shown]
    paths = list(listed[0]["settings"])
    short = groups.short_names(paths)
    many = len({group["source"] for group in found["groups"]}) > 1
    rows = [
        [
            group["label"], *([group["source"]] if many else []), str(len(group["runs"])),
            *(groups.brief(group["settings"][path]) for path in paths),
        ]
        for group in listed
    ]  # fmt: skip
    head = ["", *(["folder"] if many else []), "runs", *(short[path] for path in paths)]
    parts = [table(head, rows)]
    if len(listed) < len(found["groups"]):
        parts.append(f"{len(found['groups']) - len(listed)} more configurations are not shown.")
    rows = []
    for row in found["summaries"]:
        if row["group"] not in shown:
            continue
        mean, spread, drawn = _told(row)
        rows.append([row["metric"], row["group"], str(row["seeds"]), mean, spread, drawn])
    head = ["metric", "", "seeds", "mean", "95 % interval (t)", "95 % (bootstrap)"]
    parts.append(table(head, rows))
    for metric, higher in found["higher_is_better"].items():
        asked = [row for row in found["answers"] if row["metric"] == metric]
        if asked:
            lines = [f"{metric}, {'higher' if higher else 'lower'} is better:"]
            lines += [f"  is {row['b']} better than {row['a']}? {row['text']}" for row in asked]
            parts.append("\n".join(lines))
    parts += [f"warning: {warning}" for warning in found["warnings"]]
    return "\n\n".join(parts)


def _told(row: Mapping[str, Any]) -> tuple[str, str, str]:
    from aigc_jax.core.units import figure

    if "mean" not in row:
        return NONE, NONE, NONE
    low, high = row["interval_95"]
    if math.isinf(low):
        return figure(row["mean"]), "one seed", NONE
    return figure(row["mean"]), groups.span(low, high), groups.span(*row["bootstrap_95"])
