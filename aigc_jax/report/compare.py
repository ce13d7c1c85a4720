"""`aigc compare` and `aigc diff`: what differs between runs, and what came of it."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aigc_jax.core.units import LOOP_METRICS, clock, figure
from aigc_jax.errors import UserError, nearest
from aigc_jax.report import contrast, groups, matched
from aigc_jax.report.folder import Evaluation, Run, is_run
from aigc_jax.report.groups import NONE
from aigc_jax.report.levels import AROUND, around
from aigc_jax.report.table import table

_MANY = 8  # runs; of more, where seeds are summed up, only the sums are printed


def differences(configs: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Returns {dotted path: one value per config} of the settings that are not the same in all.

    Where a config lacks a setting, its value is `core.config.ABSENT`.
    """
    from aigc_jax.core.config import diff

    first, *others = configs
    found = [{path: (a, b) for path, a, b in diff(first, other)} for other in others]
    paths = sorted({path for pairs in found for path in pairs})
    rows: dict[str, list[Any]] = {}
    for path in paths:
        own = next(pairs[path][0] for pairs in found if path in pairs)
        rows[path] = [own, *(pairs[path][1] if path in pairs else own for pairs in found)]
    return rows


def compare(
    runs: Sequence[Run], metrics: Sequence[str] = (), sources: Sequence[str] | None = None
) -> dict[str, Any]:
    """Sets runs beside each other.

    Args:
      runs: two or more.
      metrics: which to compare; none given: all evaluation metrics and the training loss, and what
        `aigc eval` measured of two runs or more.
      sources: the folder that was given for each run, "" for a run that was given itself.

    Returns:
      A dict that JSON can hold: "metrics" (names), "runs" (name, path, state, step, steps, wall in
      seconds, fingerprint, and per metric final/final_step/best/best_step, None where a run lacks
      it), "differences" (path to one value per run), "incomparable" (a metric that was measured
      under different protocols, and so is in none of the above, to path and one value per run),
      "higher_is_better" (per metric), "floors" (per metric, for each run: what trivial models and
      real data score), "evals" (what `evaluations` says), "seeds" (what `contrast.contrast` says;
      {} where no configuration has two seeds), "matched" (what `matched.matched` says of two
      folders), "warnings" (sentences).

    Raises:
      UserError: fewer than two runs, or a metric that none of them has.
    """
    if len(runs) < 2:
        raise UserError(f"compare needs two runs or more, got {len(runs)}.")
    curves = list(dict.fromkeys(name for run in runs for name in run.metrics))
    stored = evaluations(runs, metrics)
    known = [*curves, *(n for n in _measured(runs) if n not in curves)]
    for metric in metrics:
        if metric not in known:
            raise UserError(
                f"none of the runs has a metric '{metric}'.{nearest(metric, known)} "
                f"They have: {', '.join(known) or 'none'}"
            )
    wanted = metrics or [n for n in curves if not n.startswith(LOOP_METRICS) or n == "train/loss"]
    chosen = [name for name in wanted if name in curves]
    incomparable = {name: found for name in chosen if (found := other_protocols(runs, name))}
    chosen = [name for name in chosen if name not in incomparable]
    prints = [run.fingerprint for run in runs]
    warnings = _about_protocols(incomparable, "not compared")
    warnings += _about_protocols(stored["incomparable"], "`aigc eval`: not compared")
    if len(set(prints)) > 1:
        warnings.append("the runs saw different data: their scores can not be compared.")
    states = [run.name for run in runs if run.state != "finished"]
    if states:
        warnings.append(f"not finished: {', '.join(states)}; the final numbers are the latest.")
    result = {
        "metrics": chosen,
        "runs": [
            {
                "name": run.name,
                "path": str(run.path),
                "state": run.state,
                "step": run.step,
                "steps": run.steps,
                "wall": run.wall,
                "fingerprint": run.fingerprint,
                "metrics": {metric: _score(run, metric) for metric in chosen},
            }
            for run in runs
        ],
        "differences": {
            path: [plain(value) for value in values]
            for path, values in differences([run.config for run in runs]).items()
        },
        "incomparable": incomparable,
        "higher_is_better": {
            name: runs[0].higher_is_better(name) for name in [*chosen, *stored["scores"]]
        },
        "floors": {name: [run.floors.get(name, {}) for run in runs] for name in chosen},
        "evals": stored,
        "seeds": contrast.contrast(runs, sources or [""] * len(runs), chosen),
        "matched": matched.matched(runs, sources or [""] * len(runs), chosen),
    }
    warnings += [
        f"{run.path}: {', '.join(run.damaged)} can't be read and counts as empty."
        for run in runs
        if run.damaged
    ]
    return result | {"warnings": warnings}


def other_protocols(runs: Sequence[Run], metric: str) -> dict[str, list[Any]]:
    """Returns in what the protocols of a metric differ between the runs that have it.

    A protocol is what RUN/protocols.json says of it: data, number of samples, extractor, resizing.

    Returns:
      {dotted path: one value per run}, with NONE for a run without the metric or the entry; empty
      where nothing differs.
    """
    return _differing(
        [run.protocols.get(metric, {}) if run.series(metric).steps else None for run in runs]
    )


def _differing(protocols: Sequence[Mapping[str, Any] | None]) -> dict[str, list[Any]]:
    """Returns in what they differ, as `other_protocols`; None for a run without the metric."""
    said = [groups.flat(one or {}) for one in protocols]
    rows = {path: [one.get(path, NONE) for one in said] for one in said for path in sorted(one)}
    return {
        path: values
        for path, values in sorted(rows.items())
        if len({json.dumps(v) for v, p in zip(values, protocols, strict=True) if p is not None}) > 1
    }


def _measured(runs: Sequence[Run]) -> list[str]:
    """The metrics that `aigc eval` measured, sorted."""
    return sorted({name for run in runs for one in run.evaluations for name in one.metrics})


def evaluations(runs: Sequence[Run], metrics: Sequence[str] = ()) -> dict[str, Any]:
    """Sets beside each other what `aigc eval` measured of the runs.

    Of each run counts the latest measurement under a protocol that all have in common which have
    the metric at all.

    Args:
      runs: two or more. metrics: which; none given: all that two runs or more have.

    Returns:
      A dict: "scores" (metric to one {step, score, floors} per run, None where a run lacks it),
      "incomparable" (a metric without a protocol in common, to path and one value per run, as the
      latest measurements say them).
    """
    scores: dict[str, list[Any]] = {}
    incomparable: dict[str, dict[str, list[Any]]] = {}
    for metric in metrics or _measured(runs):
        found = [_by_protocol(run, metric) for run in runs]
        having = [one for one in found if one]
        if not having or (len(having) < 2 and not metrics):
            continue
        common = [key for key in having[0] if all(key in one for one in having)]
        if common:
            chosen = [one.get(common[0]) for one in found]
            scores[metric] = [
                one and {"step": one.step, "score": one.metrics[metric],
                         "floors": run.levels(one, metric)}
                for run, one in zip(runs, chosen, strict=True)
            ]  # fmt: skip
        else:
            latest = [json.loads(next(iter(one))) if one else None for one in found]
            incomparable[metric] = _differing(latest)
    return {"scores": scores, "incomparable": incomparable}


def _by_protocol(run: Run, metric: str) -> dict[str, Evaluation]:
    """What `aigc eval` measured last under each protocol, the latest first."""
    found: dict[str, Evaluation] = {}
    for one in reversed(run.evaluations):
        if metric in one.metrics:
            found.setdefault(json.dumps(one.protocols.get(metric, {}), sort_keys=True), one)
    return found


def _about_protocols(
    incomparable: Mapping[str, Mapping[str, Sequence[Any]]], what: str
) -> list[str]:
    """One sentence for all metrics that differ in the same way; `what` happened to them."""
    alike: dict[str, list[str]] = {}
    for metric, rows in incomparable.items():
        why = "; ".join(
            f"{path} {' against '.join(brief(value) for value in values)}"
            for path, values in rows.items()
        )
        alike.setdefault(why, []).append(metric)
    return [
        f"{what}, since measured under different protocols: {', '.join(names)} ({why})."
        for why, names in alike.items()
    ]


def brief(value: Any) -> str:
    """Returns an entry of a protocol in few characters: of a hash the beginning."""
    text = show(value)
    return text if len(text) <= 16 else f"{text[:12]}..."


def _score(run: Run, metric: str) -> dict[str, Any]:
    final, best = run.last(metric), run.best(metric)
    return {
        "final": final and final[1],
        "final_step": final and final[0],
        "best": best and best[1],
        "best_step": best and best[0],
    }


def _labels(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The folders' names, or their paths where two are called the same."""
    names = [run["name"] for run in runs]
    return names if len(set(names)) == len(names) else [run["path"] for run in runs]


def as_text(result: Mapping[str, Any]) -> str:
    """Returns what `compare` found as tables for a terminal."""
    runs, seeds = result["runs"], result["seeds"]
    labels = _labels(runs)
    over_seeds = [contrast.as_text(seeds)] if seeds else []
    over_seeds += [matched.as_text(result["matched"])] if result["matched"] else []
    warned = [f"warning: {warning}" for warning in result["warnings"]]
    if over_seeds and len(runs) > _MANY:
        finished = sum(run["state"] == "finished" for run in runs)
        return "\n\n".join([f"{len(runs)} runs, {finished} finished", *over_seeds, *warned])
    rows = [
        [label, run["state"], str(run["step"]), clock(run["wall"]), run["fingerprint"][:10] or "?"]
        for label, run in zip(labels, runs, strict=True)
    ]
    parts = [table(["run", "state", "step", "trained", "data"], rows)]
    if result["metrics"]:
        parts.append(_tabled(result, labels))
    if result["evals"]["scores"]:
        parts.append(_stored(result, labels))
    if result["differences"]:
        settings = [
            [path, *(show(value) for value in values)]
            for path, values in result["differences"].items()
        ]
        parts.append(table(["setting", *labels], settings))
    else:
        parts.append("No setting differs.")
    return "\n\n".join([*parts, *over_seeds, *warned])


def _tabled(result: Mapping[str, Any], labels: Sequence[str]) -> str:
    """Final and best scores, the final ones between floors and ceilings where any are known."""
    rows = []
    for metric in result["metrics"]:
        higher, levels = result["higher_is_better"][metric], result["floors"][metric]
        for label, run, known in zip(labels, result["runs"], levels, strict=True):
            score = run["metrics"][metric]
            final = NONE if score["final"] is None else show(score["final"])
            best = f"{show(score['best'])} at {score['best_step']}"
            worse, better = around(score["final"], known, higher=higher)
            best = NONE if score["best"] is None else best
            rows.append([metric, label, worse, final, better, best])
    return _without_empty(["metric", "run", AROUND[0], "final", AROUND[1], "best"], rows)


def _without_empty(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table, without floors and ceilings where no score has any."""
    kept = [
        i
        for i, name in enumerate(head)
        if name not in AROUND or any(row[i] != NONE for row in rows)
    ]
    return table([head[i] for i in kept], [[row[i] for i in kept] for row in rows])


def _stored(result: Mapping[str, Any], labels: Sequence[str]) -> str:
    """What `aigc eval` measured."""
    rows = []
    for metric, found in result["evals"]["scores"].items():
        higher = result["higher_is_better"][metric]
        for label, one in zip(labels, found, strict=True):
            cells = [NONE, NONE, NONE, NONE]
            if one is not None:
                worse, better = around(one["score"], one["floors"], higher=higher)
                cells = [str(one["step"]), worse, show(one["score"]), better]
            rows.append([metric, label, *cells])
    head = ["by aigc eval", "run", "step", AROUND[0], "score", AROUND[1]]
    return _without_empty(head, rows)


def plain(value: Any) -> Any:
    """Returns a setting as strict JSON holds it; a missing one is the text NONE."""
    from aigc_jax.core.config import ABSENT

    if value is ABSENT:
        return NONE
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def show(value: Any) -> str:
    """Returns a setting or a metric as one would type it; a long fraction with four decimals."""
    if isinstance(value, float):
        return repr(value) if len(repr(value)) < 8 else figure(value)
    value = plain(value)
    return value if isinstance(value, str) else json.dumps(value)


def read_config(spec: str) -> dict[str, Any]:
    """Returns the configuration of a run folder, of a config.json, or of a recipe file.py[:ARG].

    Raises:
      UserError: it is none of the three.
    """
    path = Path(spec)
    if path.is_dir():
        run = Run(path)
        if not run.config:
            raise UserError(f"{path} has no config.json yet: the run died before it wrote one.")
        return run.config
    if path.suffix == ".json" and path.is_file():
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{path} holds no valid JSON ({error}).") from error
        if not isinstance(value, dict):
            raise UserError(f"{path} holds no configuration but a {type(value).__name__}.")
        return value
    if path.name.split(":")[0].endswith(".py"):
        from aigc_jax.core.config import load, to_dict

        return to_dict(load(spec, ()))
    siblings = path.parent.iterdir() if path.parent.is_dir() else []
    raise UserError(
        f"{spec} is neither a run folder nor a recipe (.py) nor a config.json."
        + nearest(path.name, [item.name for item in siblings if item.suffix or is_run(item)])
    )


def diff_text(a: str, b: str) -> str:
    """Returns the settings in which two runs or recipes differ, as a table."""
    rows = differences([read_config(a), read_config(b)])
    if not rows:
        return "No setting differs."
    return table(["setting", a, b], [[path, *map(show, values)] for path, values in rows.items()])
