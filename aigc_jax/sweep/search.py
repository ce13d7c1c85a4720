"""What the folders of a search say: its runs' settings, and the points that were tried."""

import importlib.util
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aigc_jax.core import config
from aigc_jax.errors import UserError
from aigc_jax.sweep import folder, plans
from aigc_jax.sweep.plans import Planned
from aigc_jax.sweep.space import Choice, Space

Found = tuple[dict[str, Any], list[str], folder.Outcome]


def check_package(sampler: str) -> None:
    """Raises UserError for a sampler whose package isn't installed."""
    if sampler == "cmaes" and importlib.util.find_spec("cmaes") is None:
        raise UserError(
            "--sampler=cmaes needs the package cmaes, which is not installed: pip install"
            " 'aigc-jax[sweep]', or choose tpe."
        )


def settings(sweep: folder.Sweep, planned: Sequence[Planned] | None) -> dict[str, Any]:
    """The section `run` of a sweep's trials: of the first one, or of the recipe."""
    if planned:
        found: dict[str, Any] = planned[0].config["run"]
        return found
    return config.to_dict(config.load(sweep.recipe, sweep.overrides))["run"]  # type: ignore[no-any-return]


def found(root: Path, sweep: folder.Sweep, space: Space) -> list[Found]:
    """Returns the drawn points whose runs are all done, with the runs' names and the mean score.

    For a study that was lost: a run's own config says what was drawn.
    """
    known: dict[str, Found] = {}
    for path in sorted(root.glob("*/config.json")):
        said = folder.outcome(path.parent, sweep.metric)
        if said.state not in ("finished", "pruned"):
            continue
        try:
            point = _drawn(config.from_json(path.read_text(encoding="utf-8")), space)
            points = ({**point, **more} for more in space.points())
            runs = plans.plan(sweep.recipe, sweep.overrides, points, root)
        except (UserError, KeyError, ValueError, TypeError, OSError):
            continue  # of another sweep, or from before the recipe changed
        names = [run.workdir.name for run in runs]
        ended = [folder.outcome(run.workdir, sweep.metric) for run in runs]
        if path.parent.name not in names or any(math.isnan(one.score) for one in ended):
            continue
        if all(one.state in ("finished", "pruned") for one in ended):
            score = folder.scored([one.score for one in ended])
            known[json.dumps(names)] = (point, names, said._replace(score=score))
    return list(known.values())


def _drawn(cfg: Mapping[str, Any], space: Space) -> dict[str, Any]:
    """What a config has at the paths that were drawn; KeyError or ValueError where it can't be."""
    point: dict[str, Any] = {}
    for path, drawn in space.draws.items():
        value: Any = cfg
        for name in path.split("."):
            value = value[name]
        if isinstance(drawn, Choice):
            value = next(v for v in drawn.values if _same(v, value))
        elif not drawn.low <= value <= drawn.high:
            raise ValueError(path)
        point[path] = value
    return point


def _same(one: Any, other: Any) -> bool:
    as_tuple = tuple(one) if isinstance(one, list) else one
    return bool(as_tuple == other) and isinstance(one, bool) == isinstance(other, bool)
