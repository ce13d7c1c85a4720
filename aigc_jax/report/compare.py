"""`aigc compare` and `aigc diff`: what differs between runs, and what came of it."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aigc_jax.core.units import LOOP_METRICS, clock, figure
from aigc_jax.errors import UserError, nearest
from aigc_jax.report import contrast, groups, matched
from aigc_jax.report.folder import Run, is_run
from aigc_jax.report.groups import NONE
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
      metrics: which to compare; none given: all evaluation metrics and the training loss.
      sources: the folder that was given for each run, "" for a run that was given itself.

    Returns:
      A dict that JSON can hold: "metrics" (names), "runs" (name, path, state, step, steps, wall in
      seconds, fingerprint, and per metric final/final_step/best/best_step, None where a run lacks
      it), "differences" (path to one value per run), "incomparable" (a metric that was measured
      under different protocols, and so is in none of the above, to path and one value per run),
      "seeds" (what `contrast.contrast` says; {} where no configuration has two seeds), "matched"
      (what `matched.matched` says of two folders), "warnings" (sentences).

    Raises:
      UserError: fewer than two runs, or a metric that none of them has.
    """
    if len(runs) < 2:
        raise UserError(f"compare needs two runs or more, got {len(runs)}.")
    known = list(dict.fromkeys(name for run in runs for name in run.metrics))
    for metric in metrics:
        if metric not in known:
            raise UserError(
                f"none of the runs has a metric '{metric}'.{nearest(metric, known)} "
                f"They have: {', '.join(known) or 'none'}"
            )
    chosen = list(metrics) or [
        n for n in known if not n.startswith(LOOP_METRICS) or n == "train/loss"
    ]
    incomparable = {name: found for name in chosen if (found := other_protocols(runs, name))}
    chosen = [name for name in chosen if name not in incomparable]
    prints = [run.fingerprint for run in runs]
    warnings = _about_protocols(incomparable)
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
    has = [bool(run.series(metric).steps) for run in runs]
    said = [
        groups.flat({metric: run.protocols.get(metric, {})}) if counts else {}
        for run, counts in zip(runs, has, strict=True)
    ]
    paths = sorted({path for one in said for path in one})
    rows = {}
    for path in paths:
        values = [one.get(path, NONE) for one in said]
        if len({json.dumps(v) for v, counts in zip(values, has, strict=True) if counts}) > 1:
            rows[path.removeprefix(f"{metric}.")] = values
    return rows


def _about_protocols(incomparable: Mapping[str, Mapping[str, Sequence[Any]]]) -> list[str]:
    """One sentence for all metrics that differ in the same way."""
    alike: dict[str, list[str]] = {}
    for metric, rows in incomparable.items():
        why = "; ".join(
            f"{path} {' against '.join(_brief(value) for value in values)}"
            for path, values in rows.items()
        )
        alike.setdefault(why, []).append(metric)
    return [
        f"not compared, since measured under different protocols: {', '.join(names)} ({why})."
        for why, names in alike.items()
    ]


def _brief(value: Any) -> str:
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
        scores = []
        for metric in result["metrics"]:
            for label, run in zip(labels, runs, strict=True):
                score = run["metrics"][metric]
                best = f"{show(score['best'])} at {score['best_step']}"
                missing = score["final"] is None
                final = NONE if missing else show(score["final"])
                scores.append([metric, label, final, NONE if score["best"] is None else best])
        parts.append(table(["metric", "run", "final", "best"], scores))
    if result["differences"]:
        settings = [
            [path, *(show(value) for value in values)]
            for path, values in result["differences"].items()
        ]
        parts.append(table(["setting", *labels], settings))
    else:
        parts.append("No setting differs.")
    return "\n\n".join([*parts, *over_seeds, *warned])


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
