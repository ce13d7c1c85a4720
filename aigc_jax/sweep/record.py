"""The record of a study's results: everything that a reader needs to judge them or to make them
again, and no path of the machine that made them.
"""

import hashlib
import json
import math
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

from aigc_jax.core import config
from aigc_jax.errors import UserError
from aigc_jax.sweep import writeup
from aigc_jax.sweep.analyses import Quantity
from aigc_jax.sweep.study import Scale, Study
from aigc_jax.sweep.verdicts import FINISHED, Result, Trial, judge_claim
from aigc_jax.train.log import strict

FORMAT = 1
CURVE = "train/loss"
_ROWS = 10  # of the curve's beginning that `aigc verify` makes again, at most
_SHARE = 0.2  # of the run's steps that they may take
_PLACEHOLDERS = ("FOLDER", "PATH")  # beside the names of files in capitals


def hidden(value: str) -> str:
    """Returns a setting's text without the machine's own: a path becomes INPUT.TXT or FOLDER.

    What names no place on a disk ("tiny_shakespeare", "runs/sft") stays.
    """
    path = Path(value).expanduser()
    away = path.is_absolute() or value.startswith("..")
    if not away and not (path.exists() and len(path.parts) > 1):
        return value
    return "FOLDER" if path.is_dir() or not path.suffix else path.name.upper()


def hidden_word(word: str) -> str:
    """The same for an override as typed, "--config.data.path=/home/me/input.txt"."""
    head, mark, value = word.partition("=")
    return f"{head}={hidden(value)}" if mark else word


def plain(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a config as JSON holds it, without paths of the machine and without the seed."""

    def walked(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(key): walked(item) for key, item in value.items()}
        if isinstance(value, tuple | list):
            return [walked(item) for item in value]
        return hidden(value) if isinstance(value, str) and "/" in value else value

    found = walked(json.loads(config.to_json(cfg)))
    found["run"].pop("seed", None)
    return dict(found)


def digest(cfg: Mapping[str, Any]) -> str:
    """The sha256 of `plain`: equal for runs that differ in seed and place alone."""
    return hashlib.sha256(json.dumps(plain(cfg), sort_keys=True).encode()).hexdigest()


def of_scale(
    study: Study,
    scale: Scale,
    trials: Sequence[Trial],
    results: Sequence[Result],
    *,
    command: str,
    wall: float,
    quantities: Mapping[str, Quantity],
) -> dict[str, Any]:
    """Makes the record of one scale, JSON-ready but for the quantities; it has no claims yet.

    Args:
      command: what makes it again. wall: seconds over all starts. quantities: of the analysis.
    """
    ran = [trial for trial in trials if trial.state == FINISHED and trial.run is not None]
    rows = {row.name: row for row in study.rows}
    first = next((trial.run for trial in ran if trial.run is not None), None)
    return {
        "command": command,
        "cost": scale.cost,
        "judged": scale.judged,
        "wall_seconds": round(wall, 1),
        "rows": [_result(result, rows[result.row], study) for result in results],
        "quantities": dict(quantities),
        "trials": [_trial(trial) for trial in trials if trial.state != "unfinished"],
        "floors": _floors(study, ran),
        "protocols": first.protocols if first else {},
        "environment": _environment(first.env) if first else {},
        "bands": bands(results, ran, study),
    }  # fmt: skip


def _result(result: Result, row: Any, study: Study) -> dict[str, Any]:
    tolerance = study.metrics[result.metric].tolerance if row.tolerance is None else row.tolerance
    return {
        "row": result.row,
        "point": dict(result.point),
        "metric": result.metric,
        "published": result.published,
        "tolerance": tolerance,
        "conditions": row.conditions,
        "mean": result.mean,
        "interval_95": [result.low, result.high],
        "values": {str(seed): value for seed, value in result.values.items()},
        "diverged": result.diverged,
        "chosen": result.chosen,
        "verdict": result.verdict,
    }


def _trial(trial: Trial) -> dict[str, Any]:
    if trial.run is None:
        return dict(trial.said or {})
    git = trial.run.env.get("git") or {}
    return {
        "row": trial.row,
        "point": dict(trial.point),
        "seed": trial.seed,
        "id": trial.id,
        "state": trial.state,
        "scores": dict(trial.scores),
        "wall_seconds": trial.run.wall,
        "cpu": trial.run.env.get("cpu"),
        "commit": git.get("commit"),
        "dirty": git.get("dirty"),
        "config_sha256": digest(trial.run.config) if trial.run.config else None,
        "data_sha256": trial.run.fingerprint,
        "protocols_sha256": trial.protocols,
    }


def _floors(study: Study, ran: Sequence[Trial]) -> dict[str, Any]:
    """What trivial models and the data itself get: as stated, and as the runs of each row, which
    may have data of their own, have measured it.
    """
    found: dict[str, Any] = {
        name: {"stated_floors": dict(metric.floors), "stated_ceilings": dict(metric.ceilings),
               "measured": {}}
        for name, metric in study.metrics.items()
    }  # fmt: skip
    for trial in ran:
        for name, levels in trial.run.floors.items() if trial.run else ():
            if name in found:
                found[name]["measured"].setdefault(trial.row, levels)
    return found


def _by_row(scale: dict[str, Any]) -> None:
    """Gives each row of an older record the levels that were then kept once for all rows."""
    for found in scale["floors"].values():
        kept = found.setdefault("measured", {})
        if any(not isinstance(value, Mapping) for value in kept.values()):
            found["measured"] = dict.fromkeys((row["row"] for row in scale["rows"]), kept)


def _environment(env: Mapping[str, Any]) -> dict[str, Any]:
    wanted = ("aigc_jax", "python", "packages", "platform", "cpu", "cores", "devices")
    return {name: env[name] for name in wanted if name in env}


# --- the band of the first steps --------------------------------------------------------------


def bands(results: Sequence[Result], ran: Sequence[Trial], study: Study) -> dict[str, Any]:
    """For each row, how its training loss begins: what `aigc verify` compares with.

    Of the point that a row reports (of a swept row, the first). The band at a step goes from the
    lowest to the highest seed, and three standard deviations beyond; of a single seed, 5 % beyond.
    """
    found: dict[str, Any] = {}
    for result in results:
        if result.metric != study.metric.name or not result.chosen or result.row in found:
            continue
        own = [t for t in ran if t.row == result.row and t.point == result.point]
        curves = [_beginning(trial.run) for trial in own]
        if own and curves[0]:
            run = own[0].run
            assert run is not None
            steps = [s for s in curves[0] if all(s in curve for curve in curves)]
            columns = [[curve[step] for curve in curves] for step in steps]
            found[result.row] = {
                "point": dict(result.point),
                "seed": own[0].seed,
                "seeds": len(own),
                "metric": CURVE,
                "steps": steps,
                "curve": [column[0] for column in columns],
                "low": [min(column) - _beyond(column) for column in columns],
                "high": [max(column) + _beyond(column) for column in columns],
                "config": plain(run.config),
                "data_sha256": run.fingerprint,
            }
    return found


def _beginning(run: Any) -> dict[int, float]:
    steps, values = run.series(CURVE)
    pairs = [(s, v) for s, v in zip(steps, values, strict=True) if math.isfinite(v)]
    last = _SHARE * (run.steps or 0)
    short = [pair for pair in pairs if pair[0] <= last]
    return dict((short or pairs[:1])[:_ROWS])


def _beyond(values: Sequence[float]) -> float:
    if len(values) == 1:
        return 0.05 * abs(values[0])
    mean = sum(values) / len(values)
    return 3 * math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))


def changed(before: Mapping[str, Any], cfg: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Returns in what a config differs from the one of a band: (path, then, now).

    Settings that the code has gained since count at their defaults; places on a disk don't count.
    """
    old = config.from_json(json.dumps({**before, "run": {**before["run"], "seed": 0}}))
    now = plain(cfg)
    now["run"]["seed"] = 0
    found = config.diff(config.fill(old, "the record"), config.fill(config.from_json(
        json.dumps(now)), "the recipe"))  # fmt: skip
    return [
        (path, then, here)
        for path, then, here in found
        if not (_placeholder(then) or _placeholder(here))
    ]


def _placeholder(value: Any) -> bool:
    return isinstance(value, str) and (value in _PLACEHOLDERS or (value.isupper() and "." in value))


# --- the file ---------------------------------------------------------------------------------


def load(path: Path) -> dict[str, Any]:
    """Reads a record.json of ours; {"format", "scales": {}} where there is none.

    One of another form, made before there were studies, stays under "earlier".

    Raises:
      UserError: it holds no JSON.
    """
    empty: dict[str, Any] = {"format": FORMAT, "scales": {}}
    if not path.is_file():
        return empty
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} holds no valid JSON ({error}); was it edited?") from None
    if isinstance(found, dict) and found.get("format") == FORMAT and "scales" in found:
        for scale in found["scales"].values():
            _by_row(scale)
        return found
    return {**empty, "earlier": found}


def merged(
    before: Mapping[str, Any], fresh: Mapping[str, Any], through: Container[str]
) -> dict[str, Any]:
    """Returns a scale's record with the rows of an earlier one that are not, or not yet, run here.

    What has once been run stays in until all trials of the same row have been run again: an
    interrupted start takes nothing away.

    Args:
      before: as read; {} for none. fresh: from `of_scale`. through: the rows that are run whole.
    """
    if not before:
        return dict(fresh)
    kept = [trial for trial in before["trials"] if trial["row"] not in through]
    names = {trial["row"] for trial in kept}
    new = [trial for trial in fresh["trials"] if trial["row"] not in names]
    rows = [r for r in fresh["rows"] if r["row"] not in names]
    rows += [r for r in before["rows"] if r["row"] in names]
    bands_ = {n: b for n, b in before["bands"].items() if n in names}
    bands_ |= {n: b for n, b in fresh["bands"].items() if n not in names}
    joined = {trial["row"] for trial in new if trial in before["trials"]}
    for name in joined & before["bands"].keys():
        if before["bands"][name]["seeds"] > bands_.get(name, {"seeds": 0})["seeds"]:
            bands_[name] = before["bands"][name]
    floors = {}
    for name, said in fresh["floors"].items():
        earlier = before["floors"].get(name, {})
        measured = {**earlier.get("measured", {}), **said["measured"]}
        floors[name] = {**earlier, **said, "measured": measured}
    found = _quantities(before)
    whole = {**fresh, "quantities": {**found, **fresh["quantities"]}, "rows": rows,
             "trials": [*kept, *new], "bands": bands_, "floors": floors}  # fmt: skip
    if kept or joined:
        whole["wall_seconds"] = max(before["wall_seconds"], fresh["wall_seconds"])
    if not fresh["environment"]:  # nothing was run here
        whole |= {name: before[name] for name in ("environment", "protocols")}
    return whole


def judged_again(study: Study, scale: Scale, before: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a scale's record with the study's claims of today on the quantities that it has."""
    return finished(study, scale, {**before, "quantities": _quantities(before)}, before)


def _quantities(record: Mapping[str, Any]) -> dict[str, Quantity]:
    """Those of a record as read; the bootstrap's draws are not kept there."""
    return {name: _quantity(said) for name, said in record["quantities"].items()}


def _quantity(said: Mapping[str, Any]) -> Quantity:
    by_seed = {int(seed): float(value) for seed, value in said["by_seed"].items()}
    value, low, high = (float(said[key]) for key in ("value", "low", "high"))
    return Quantity(value, low, high, said["unit"], by_seed)


def finished(
    study: Study, scale: Scale, found: Mapping[str, Any], before: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns a scale's record with its claims judged, JSON-ready.

    Args:
      found: from `merged`. before: as there. Two quantities of it whose draws are gone keep the
        verdict on their difference.
    """
    quantities: Mapping[str, Quantity] = found["quantities"]
    said = {claim["says"]: claim for claim in before.get("claims", ())}
    claims = []
    for claim in study.claims:
        stale = isinstance(claim.than, str) and all(
            name in quantities and _has_lost_its_draws(quantities[name])
            for name in (claim.quantity, claim.than)
        )
        if stale and claim.says in said:
            claims.append(said[claim.says])
            continue
        ours, word = judge_claim(claim, quantities, scale)
        shown = writeup.quantity(ours) if ours is not None else ""
        claims.append({**claim._asdict(), "ours": shown, "verdict": word})
    told = {
        name: {"value": q.value, "low": q.low, "high": q.high, "unit": q.unit,
               "by_seed": {str(seed): v for seed, v in q.by_seed.items()}}
        for name, q in quantities.items()
    }  # fmt: skip
    return {**found, "quantities": told, "claims": claims}


def _has_lost_its_draws(quantity: Quantity) -> bool:
    return not quantity.by_seed and quantity.draws is None


def as_json(record: Mapping[str, Any]) -> str:
    """The file's text."""
    return json.dumps(strict(record), indent=1, allow_nan=False) + "\n"
