"""What the trials of a study say: scores by row, with intervals, and a verdict on each."""

import hashlib
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from aigc_jax.report import statistics
from aigc_jax.report.folder import Run, has_diverged, is_run
from aigc_jax.sweep.study import Claim, Job, Metric, Scale, Study

MATCH, NEAR, MISS, BETTER = "match", "near", "miss", "better"
NOT_RUN, NOT_JUDGED = "not run", "not judged"
UNFINISHED, FINISHED, DIVERGED = "unfinished", "finished", "diverged"


class Trial(NamedTuple):
    """One trial, read back.

    Attributes:
      row: the row's name. point, seed, id: of the job. state: UNFINISHED, FINISHED or DIVERGED.
      scores: metric -> value of the finished; nan where a number went bad or was never measured.
      run: its folder, None where there is none here.
      said: what a record says of it, where it was run elsewhere.
    """

    row: str
    point: Mapping[str, Any]
    seed: int
    id: str
    state: str
    scores: Mapping[str, float]
    run: Run | None
    said: Mapping[str, Any] | None = None

    @property
    def protocols(self) -> dict[str, str]:
        """How its scores were measured: metric -> hash of the protocol; {} without a run here."""
        said = self.run.protocols if self.run and self.state == FINISHED else {}
        return {
            name: hashlib.sha256(json.dumps(said[name], sort_keys=True).encode()).hexdigest()
            for name in self.scores
            if name in said
        }


class Result(NamedTuple):
    """One point of one row under one metric.

    Attributes:
      values: by seed, of those that ended with a number; diverged: how many ended without.
      mean, low, high: of the values, with the 95 % interval; nan without values. One value has no
        interval: both ends are the value.
      published: None where the row states nothing. verdict: one of the words above, "" for a
        result that nothing is stated about.
      chosen: whether it is what its row reports: of a row's tuned points, the best.
    """

    row: str
    point: Mapping[str, Any]
    metric: str
    values: Mapping[int, float]
    diverged: int
    mean: float
    low: float
    high: float
    published: float | None
    verdict: str
    chosen: bool


def collect(
    study: Study,
    jobs: Sequence[Job],
    scale: Scale | None = None,
    recorded: Sequence[Mapping[str, Any]] = (),
) -> list[Trial]:
    """Reads the run folders of all jobs; a folder that is not there is an unfinished trial.

    A finished trial without a number for what trials report at the scale has diverged.

    Args:
      recorded: trials of an earlier record. One that is not through here, and has been elsewhere
        with the very same config, counts as it was then: the seeds of a row may be run on several
        machines. Not one that was measured by another protocol than a run here (a classifier
        trained again has other features): such numbers don't compare.
    """
    metric = (scale.metric if scale else "") or study.metric.name
    known = {said["id"]: said for said in recorded}
    found = [_read(study, job, metric) for job in jobs]
    ours = next((trial.protocols for trial in found if trial.protocols), {})
    return [
        _recalled(t, known[t.id])
        if t.state == UNFINISHED and t.id in known and _comparable(known[t.id], ours) else t
        for t in found
    ]  # fmt: skip


def _comparable(said: Mapping[str, Any], ours: Mapping[str, str]) -> bool:
    """Whether a recorded trial's scores were measured as ours are; older records don't say."""
    theirs = said.get("protocols_sha256", {})
    return all(theirs[name] == ours[name] for name in theirs.keys() & ours.keys())


def _recalled(trial: Trial, said: Mapping[str, Any]) -> Trial:
    scores = {name: float(value) for name, value in said["scores"].items()}
    return trial._replace(state=said["state"], scores=scores, run=None, said=said)


def state(workdir: Path) -> str:
    """Whether a trial is through: FINISHED; DIVERGED, where it stopped on bad numbers; or not."""
    try:
        said = json.loads((workdir / "status.json").read_text(encoding="utf-8"))
        word, reason = str(said["state"]), str(said["reason"])
    except (OSError, ValueError, KeyError, TypeError):
        return UNFINISHED
    if has_diverged(word, reason):
        return DIVERGED
    return FINISHED if word == "finished" else UNFINISHED


def _read(study: Study, job: Job, reported: str) -> Trial:
    folder = job.planned.workdir
    found, scores = state(folder), {}
    run = Run(folder) if is_run(folder) else None
    if run is not None and found == FINISHED:
        scores = {name: _score(run, metric) for name, metric in study.metrics.items()}
        if not math.isfinite(scores[reported]):
            found = DIVERGED
    return Trial(job.row.name, job.point, job.seed, job.planned.id, found, scores, run)


def _score(run: Run, metric: Metric) -> float:
    """The metric at the run's last step, or its best over the run."""
    steps, values = run.series(metric.name)
    if metric.at == "best":
        finite = [value for value in values if math.isfinite(value)]
        choose = min if metric.direction == "minimize" else max
        return choose(finite) if finite else math.nan
    return values[-1] if steps and steps[-1] == run.steps else math.nan


def judge(study: Study, scale: Scale, trials: Sequence[Trial]) -> list[Result]:
    """Sums up each point of each row under each metric, in the study's order, with its verdict."""
    found: list[Result] = []
    rows = {row.name: row for row in study.rows}
    for name, group in itertools.groupby(trials, lambda trial: trial.row):
        row, points = rows[name], _by_point(list(group))
        main = [_summed(study.metric, name, point, own) for point, own in points]
        best = _best(study.metric, main) if row.tune else None
        for metric in study.metrics.values():
            for i, (point, own) in enumerate(points):
                result = _summed(metric, name, point, own)
                chosen = best is None or i == best
                published = (row.published or {}).get(metric.name) if chosen else None
                result = result._replace(published=published, chosen=chosen)
                found.append(result._replace(verdict=_verdict_of(result, row, metric, scale, own)))
    return found


def _by_point(trials: Sequence[Trial]) -> list[tuple[Mapping[str, Any], list[Trial]]]:
    points: dict[str, list[Trial]] = {}
    for trial in trials:
        points.setdefault(json.dumps(dict(trial.point), default=str), []).append(trial)
    return [(own[0].point, own) for own in points.values()]


def _summed(metric: Metric, row: str, point: Mapping[str, Any], trials: list[Trial]) -> Result:
    values = {
        trial.seed: trial.scores[metric.name]
        for trial in trials
        if trial.state == FINISHED and math.isfinite(trial.scores.get(metric.name, math.nan))
    }
    diverged = sum(trial.state == DIVERGED for trial in trials)
    mean, low, high = spread(list(values.values()))
    return Result(row, point, metric.name, values, diverged, mean, low, high, None, "", True)


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and 95 % interval (Student's t); one value alone stands for its ends too."""
    if not values:
        return math.nan, math.nan, math.nan
    if len(values) == 1:
        return values[0], values[0], values[0]
    found = statistics.interval(values)
    return found.mean, found.low, found.high


def _best(metric: Metric, results: Sequence[Result]) -> int:
    """The place of the point with the best mean; one with a seed that diverged comes last."""
    sign = 1 if metric.direction == "minimize" else -1
    keys = [(r.diverged > 0, math.isnan(r.mean), sign * r.mean) for r in results]
    return min(range(len(keys)), key=lambda i: keys[i])


def _verdict_of(
    result: Result, row: Any, metric: Metric, scale: Scale, trials: Sequence[Trial]
) -> str:
    if not result.values:
        ran = any(trial.state != UNFINISHED for trial in trials)
        return MISS if ran and result.published is not None and scale.judged else (
            "" if ran else NOT_RUN
        )  # fmt: skip
    if result.published is None:
        return ""
    if not scale.judged:
        return NOT_JUDGED
    if result.diverged:
        return MISS
    tolerance = metric.tolerance if row.tolerance is None else row.tolerance
    assert tolerance is not None  # `study.read` has seen to it
    higher = metric.direction == "maximize"
    return verdict(
        result.published, tolerance, result.low, result.high, higher=higher, free=row.one_sided
    )


def verdict(
    published: float, tolerance: float, low: float, high: float, *, higher: bool, free: bool
) -> str:
    """Judges an interval by a published value.

    Args:
      published, tolerance: in the metric's unit. low, high: ends of our interval.
      higher: whether larger is better. free: whether to be better than published is no miss.

    Returns:
      "match" where our interval meets published +- tolerance, "near" where it meets twice that;
      "better" where it lies wholly on the better side and that is free; else "miss".
    """
    gap = max(low - published, published - high, 0.0)
    if gap <= tolerance:
        return MATCH
    if free and (low > published if higher else high < published):
        return BETTER
    return NEAR if gap <= 2 * tolerance else MISS


def judge_claim(claim: Claim, quantities: Mapping[str, Any], scale: Scale) -> tuple[Any, str]:
    """Judges a claim on the quantities that the analysis has found.

    A difference is "match" where its 95 % interval lies wholly on the claimed side (one seed has no
    interval, and can't be more than "near"), "near" where only its mean does, else "miss". Seeds
    that all say the same have an interval of no width, which tells nothing of the next seed: then
    the signs alone count, and it takes six of them for 95 %.

    Returns:
      The quantity (for a comparison of two, their difference), None where it is not known, and the
      verdict.
    """
    ours = quantities.get(claim.quantity)
    other = quantities.get(claim.than) if isinstance(claim.than, str) else None
    if ours is None or (isinstance(claim.than, str) and other is None):
        return None, NOT_RUN
    if claim.relation == "about":
        assert not isinstance(claim.than, str)
        low, high = (ours.low, ours.high) if ours.known else (ours.value, ours.value)
        word = verdict(claim.than, claim.tolerance, low, high, higher=False, free=False)
        return ours, word if scale.judged else NOT_JUDGED
    gap = ours.minus(claim.than if other is None else other)
    shown = ours if other is None else gap
    if scale.name == "smoke":
        return shown, NOT_JUDGED
    side = 1 if claim.relation == "more_than" else -1
    if side * gap.value <= 0:
        return shown, MISS
    # Without an interval its ends are infinite, or nan: never sure.
    sure = gap.low > 0 if side > 0 else gap.high < 0
    if gap.low == gap.high:
        seeds = [s for s in ours.by_seed if other is None or s in other.by_seed]
        sure = 2 * 0.5 ** len(seeds) < 1 - statistics.LEVEL
    return shown, MATCH if sure else NEAR
