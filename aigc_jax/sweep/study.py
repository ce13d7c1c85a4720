"""Studies: a published result as a file that says what is run, and what must come out.

A study is a Python file with `get_study()`, which returns a plain dict and imports nothing of the
package. `read` checks it and returns a `Study`; `jobs` says which trials its rows are at a scale.
docs/studies.md has the format, key by key.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from aigc_jax.core import recipe
from aigc_jax.errors import UserError, nearest
from aigc_jax.sweep import analyses, plans

SMOKE = "smoke"  # the scale that only shows that everything runs: nothing is judged there
DIRECTIONS = ("minimize", "maximize")
_RELATIONS = ("less_than", "more_than", "about")
_NUMBER = int | float


class Metric(NamedTuple):
    """What is measured; the fields are the keys of the study's `metrics`."""

    name: str
    direction: str
    protocol: str
    unit: str
    tolerance: float | None
    at: str
    floors: Mapping[str, float]
    ceilings: Mapping[str, float]


class Row(NamedTuple):
    """One line of the published table; the fields are the keys of a row."""

    name: str
    recipe: str
    published: Mapping[str, float] | None
    overrides: Mapping[str, Any]
    sweep: Mapping[str, Sequence[Any]]
    tune: Mapping[str, Sequence[Any]]
    seeds: int
    conditions: str
    tolerance: float | None
    one_sided: bool
    tags: Mapping[str, Any]
    scales: Mapping[str, Mapping[str, Any]]


class Scale(NamedTuple):
    """How much of it is run; the fields are the keys of one of the study's `scales`.

    metric: what trials report to the engine here, if it is not the study's first metric.
    """

    name: str
    cost: str
    overrides: Mapping[str, Any]
    values: Mapping[str, Sequence[Any]]
    seeds: int | None
    rows: Sequence[str] | None
    judged: bool
    metric: str


class Claim(NamedTuple):
    """What must hold of the quantities that the analysis finds.

    `relation` is "less_than", "more_than" or "about", `than` a number or another quantity's name.
    """

    says: str
    quantity: str
    relation: str
    than: str | float
    tolerance: float
    source: str


class Study(NamedTuple):
    """A study file, checked and complete. `path` is the file; its name is the study's."""

    path: Path
    title: str
    question: str
    paper: Mapping[str, str]
    metrics: Mapping[str, Metric]
    rows: Sequence[Row]
    scales: Mapping[str, Scale]
    analysis: Mapping[str, Any] | None
    claims: Sequence[Claim]
    notes: str

    @property
    def name(self) -> str:
        """What `aigc verify` calls it."""
        return self.path.stem

    @property
    def metric(self) -> Metric:
        """The one that rows are tuned by: the first."""
        return next(iter(self.metrics.values()))


class Job(NamedTuple):
    """One trial of a row. `point` is what the row sweeps or tunes, without the seed."""

    row: Row
    point: Mapping[str, Any]
    seed: int
    planned: plans.Planned


# Key -> (what it holds, its default); without a default it must be there.
_STUDY: dict[str, tuple[Any, ...]] = {
    "title": (str,),
    "paper": (dict,),
    "metrics": (dict,),
    "rows": (tuple | list,),
    "scales": (dict,),
    "question": (str, ""),
    "analysis": (dict | None, None),
    "claims": (tuple | list, ()),
    "notes": (str, ""),
}
_PAPER: dict[str, tuple[Any, ...]] = {
    "title": (str,), "arxiv": (str, ""), "url": (str, ""), "place": (str, ""),
}  # fmt: skip
_METRIC: dict[str, tuple[Any, ...]] = {
    "direction": (str,),
    "protocol": (str,),
    "unit": (str, ""),
    "tolerance": (_NUMBER | None, None),
    "at": (str, "last"),
    "floors": (dict, {}),
    "ceilings": (dict, {}),
}
_ROW: dict[str, tuple[Any, ...]] = {
    "name": (str,),
    "recipe": (str,),
    "published": (dict | None,),
    "overrides": (dict, {}),
    "sweep": (dict, {}),
    "tune": (dict, {}),
    "seeds": (int, 1),
    "conditions": (str, ""),
    "tolerance": (_NUMBER | None, None),
    "one_sided": (bool, False),
    "tags": (dict, {}),
    "scales": (dict, {}),
}
_SCALE: dict[str, tuple[Any, ...]] = {
    "cost": (str,),
    "overrides": (dict, {}),
    "values": (dict, {}),
    "seeds": (int | None, None),
    "rows": (tuple | list | None, None),
    "judged": (bool, True),
    "metric": (str, ""),
}
_CLAIM: dict[str, tuple[Any, ...]] = {
    "says": (str,),
    "quantity": (str,),
    "tolerance": (_NUMBER, 0.0),
    "source": (str, ""),
    **{name: (_NUMBER | str | None, None) for name in _RELATIONS},
}


def find(name: str) -> Path:
    """Returns the file of a study, named by its path or by its name in `experiments/`.

    Raises:
      UserError: there is none; with the nearest.
    """
    given = Path(name)
    for path in (given, Path("experiments") / f"{name}.py"):
        if path.suffix == ".py" and path.is_file():
            return path
    known = {path.stem: path for path in sorted(given.parent.glob("*.py"))}
    known |= {path.stem: path for path in sorted(Path("experiments").glob("*.py"))}
    hint = nearest(given.stem, known)
    listed = f"; there are: {', '.join(known)}" if known and not hint else ""
    raise UserError(f"there is no study '{name}'{f'.{hint}' if hint else listed}")


def read(path: Path) -> Study:
    """Runs a study's file and checks what its `get_study()` returns.

    Raises:
      UserError: the file fails (with its line), has no `get_study`, or what this returns is no
        study: a key unknown, missing or of another type, a row without its published value.
    """
    with recipe.opened(str(path)) as (module, _, label):
        get_study = getattr(module, "get_study", None)
        made = get_study() if callable(get_study) else None
    if not callable(get_study):
        raise UserError(f"{label} is no study: it defines no get_study().")
    if not isinstance(made, dict):
        raise UserError(f"{label}: get_study returns {type(made).__name__}; expected a dict.")
    return _checked(path, label, made)


def jobs(study: Study, scale: Scale, overrides: Sequence[str], root: Path) -> list[Job]:
    """Lists the trials of all rows at a scale, the first seed of each point first.

    A config that two rows share is one trial: both have the same run folder.

    Args:
      overrides: as typed; they come after the study's own. root: of the run folders.

    Raises:
      UserError: a row's recipe is not there, or takes no such setting.
    """
    found: list[Job] = []
    folders: dict[str, plans.Planned] = {}
    there = {path.name.rpartition("-")[2]: path for path in root.glob("*-*") if path.is_dir()}
    for row in study.rows:
        if scale.rows is not None and row.name not in scale.rows:
            continue
        fixed = {"run.tensorboard": False, **row.overrides, **scale.overrides}
        fixed |= row.scales.get(scale.name, {})
        words = [*(plans.word(path, value) for path, value in fixed.items()), *overrides]
        seeds = row.seeds if scale.seeds is None else scale.seeds
        for point, seed in itertools.product(points(row, scale), range(seeds)):
            whole = {**point, "run.seed": seed}
            (planned,) = plans.plan(_recipe(study, row.recipe), words, [whole], root)
            if planned.id not in folders:
                name = f"{slug(row.name)},{planned.workdir.name}"
                workdir = there.get(planned.id, root / name)
                folders[planned.id] = planned._replace(workdir=workdir)
            found.append(Job(row, point, seed, folders[planned.id]))
    return found


def points(row: Row, scale: Scale) -> list[dict[str, Any]]:
    """Returns what a row sweeps and tunes at a scale, by dotted path; [{}] for nothing."""
    grid = {**row.sweep, **row.tune}
    grid = {path: scale.values.get(path, values) for path, values in grid.items()}
    return [dict(zip(grid, chosen, strict=True)) for chosen in itertools.product(*grid.values())]


def slug(name: str) -> str:
    """A row's name as a part of a folder's."""
    return "".join(c if c.isalnum() or c in "._+" else "_" for c in name)[:40].strip("_")


def _recipe(study: Study, spec: str) -> str:
    """A recipe as it can be found from here: studies name them from their repository's root."""
    path, mark, argument = spec.partition(".py:")
    file = f"{path}.py" if mark else path
    if not Path(file).is_file():
        beside = study.path.resolve().parent.parent / file
        if beside.is_file():
            return f"{beside}:{argument}" if mark else str(beside)
    return spec


# --- checks ----------------------------------------------------------------------------------


def _filled(group: Any, keys: Mapping[str, tuple[Any, ...]], where: str) -> dict[str, Any]:
    """Returns the group with every key of `keys`; UserError for anything else in it."""
    if not isinstance(group, dict):
        raise UserError(f"{where} is {group!r}; expected a dict.")
    for key in group:
        if key not in keys:
            hint = nearest(str(key), keys) or f" There are: {', '.join(keys)}."
            raise UserError(f"{where} has no key '{key}'.{hint}")
    filled = {}
    for key, (kind, *default) in keys.items():
        if key not in group and not default:
            raise UserError(f"{where} lacks '{key}'.")
        value = group.get(key, *default)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise UserError(f"{where}: '{key}' is {value!r}, of another type than expected.")
        if key == "tolerance" and value is not None and value < 0:
            raise UserError(f"{where}: tolerance is {value}; expected 0 or more.")
        filled[key] = value
    return filled


def _checked(path: Path, label: str, made: dict[str, Any]) -> Study:
    study = _filled(made, _STUDY, label)
    paper = _filled(study["paper"], _PAPER, f"{label}: paper")
    if not (paper["arxiv"] or paper["url"]):
        raise UserError(f"{label}: paper has neither 'arxiv' nor 'url': where is it found?")
    metrics = {
        name: Metric(name, **_filled(group, _METRIC, f"{label}: metric '{name}'"))
        for name, group in study["metrics"].items()
    }
    for key in ("metrics", "rows", "scales"):
        if not study[key]:
            raise UserError(f"{label}: '{key}' is empty.")
    for metric in metrics.values():
        _one_of(metric.direction, DIRECTIONS, f"{label}: metric '{metric.name}': direction")
        _one_of(metric.at, ("last", "best"), f"{label}: metric '{metric.name}': at")
    rows = [_row(group, i, metrics, label) for i, group in enumerate(study["rows"])]
    names = [row.name for row in rows]
    if len(set(names)) < len(names):
        raise UserError(f"{label}: two rows are called '{max(names, key=names.count)}'.")
    scales = {
        name: Scale(name, **_filled(group, _SCALE, f"{label}: scale '{name}'"))
        for name, group in study["scales"].items()
    }
    scales = {n: s._replace(judged=s.judged and n != SMOKE) for n, s in scales.items()}
    _check_scales(rows, scales, metrics, label)
    claims = [_claim(group, i, label) for i, group in enumerate(study["claims"])]
    if claims and study["analysis"] is None:
        raise UserError(f"{label} has claims and no 'analysis' that finds their quantities.")
    if study["analysis"] is not None:
        analyses.check(study["analysis"], label)
    if not claims and not any(row.published for row in rows):
        raise UserError(f"{label} has neither a published value nor a claim: nothing to judge.")
    complete = Study(
        path, study["title"], study["question"], paper, metrics, rows, scales,
        study["analysis"], claims, study["notes"],
    )  # fmt: skip
    analyses.check_claims(complete, label)
    return complete


def _one_of(word: str, known: Sequence[str], where: str) -> None:
    if word not in known:
        raise UserError(f"{where} is '{word}'; expected {' or '.join(known)}.")


def _row(group: Any, place: int, metrics: Mapping[str, Metric], label: str) -> Row:
    named = isinstance(group, dict) and isinstance(group.get("name"), str)
    where = f"{label}: row '{group['name']}'" if named else f"{label}: row {place}"
    if named and group.get("published", {}) == {}:
        raise UserError(
            f"{where} has no published value to be judged by; give published={{METRIC: VALUE}}, or"
            " published=None for a row that is only ours."
        )
    row = Row(**_filled(group, _ROW, where))
    for name, value in (row.published or {}).items():
        if name not in metrics:
            raise UserError(f"{where}: there is no metric '{name}'.{nearest(name, metrics)}")
        if isinstance(value, bool) or not isinstance(value, _NUMBER) or not math.isfinite(value):
            raise UserError(f"{where}: the published {name} is {value!r}; expected a number.")
        if row.tolerance is None and metrics[name].tolerance is None:
            raise UserError(f"{where}: neither it nor metric '{name}' has a 'tolerance'.")
    for path, values in {**row.sweep, **row.tune}.items():
        if path == "run.seed":
            raise UserError(f"{where}: it sweeps run.seed; give seeds=N.")
        _check_values(values, f"{where}: {path}")
    if row.seeds < 1:
        raise UserError(f"{where}: seeds is {row.seeds}; expected 1 or more.")
    return row


def _check_values(values: Any, where: str) -> None:
    if not isinstance(values, tuple | list) or not values:
        raise UserError(f"{where} is {values!r}; expected a tuple of values to try.")


def _check_scales(
    rows: Sequence[Row], scales: Mapping[str, Scale], metrics: Mapping[str, Metric], label: str
) -> None:
    names = [row.name for row in rows]
    for scale in scales.values():
        where = f"{label}: scale '{scale.name}'"
        for name in scale.rows or ():
            if name not in names:
                raise UserError(f"{where}: there is no row '{name}'.{nearest(name, names)}")
        swept = {path: 0 for row in rows for path in (*row.sweep, *row.tune)}
        for path, values in scale.values.items():
            if path not in swept:
                raise UserError(f"{where}: no row sweeps or tunes '{path}'.{nearest(path, swept)}")
            _check_values(values, f"{where}: {path}")
        if scale.metric and scale.metric not in metrics:
            raise UserError(
                f"{where}: there is no metric '{scale.metric}'.{nearest(scale.metric, metrics)}"
            )
        if scale.seeds is not None and scale.seeds < 1:
            raise UserError(f"{where}: seeds is {scale.seeds}; expected 1 or more.")
    for row in rows:
        for name in row.scales:
            if name not in scales:
                raise UserError(
                    f"{label}: row '{row.name}' names a scale '{name}'.{nearest(name, scales)}"
                )


def _claim(group: Any, place: int, label: str) -> Claim:
    where = f"{label}: claim {place}"
    filled = _filled(group, _CLAIM, where)
    given = [name for name in _RELATIONS if filled[name] is not None]
    if len(given) != 1:
        raise UserError(f"{where} needs one of {', '.join(_RELATIONS)}; it has {len(given)}.")
    than = filled[given[0]]
    if given[0] == "about" and not filled["tolerance"]:
        raise UserError(f"{where}: 'about' needs a 'tolerance'.")
    says, quantity, source = (filled[key] for key in ("says", "quantity", "source"))
    return Claim(says, quantity, given[0], than, float(filled["tolerance"]), source)
