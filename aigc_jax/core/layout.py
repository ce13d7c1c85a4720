"""Which settings a config can have: found from the modules that it names.

Every other file of `core/` that deals with configs asks this one what exists.
"""

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from aigc_jax.core import schema
from aigc_jax.core.schema import Knob
from aigc_jax.errors import UserError, nearest

# Sections whose module is named by the config, and the room it is looked up in.
SEAMS = {"task": "tasks", "data": "data"}
# Sections whose module is fixed: (room, file, function or class).
FIXED = {
    "optim": ("core", "optim", "make"),
    "run": ("train", "settings", "Settings"),
    "mesh": ("train", "sharding", "make"),
}
SECTIONS = ("task", "optim", "hyper", "data", "evals", "run", "mesh", "init_from")
# Handed in by the wiring; the knob that sets it.
HANDED = {
    "data.batch_size": "run.batch_size",
    "data.seed": "run.seed",
    "optim.steps": "run.steps",
}


def layout(cfg: Mapping[str, Any], source: str = "the config") -> dict[str, Knob]:
    """Returns every setting that a config with these modules can have, by its dotted path.

    `cfg` is a plain dict with all the `SECTIONS`; `source` is the name that messages give it.

    Raises UserError where a section is missing, or a module's name is missing or wrong.
    """
    groups = {section: _group(cfg, section, source) for section in SECTIONS}
    known: dict[str, Knob] = {}
    for section, room in SEAMS.items():
        known |= _seam(section, room, groups[section], source)
    for section, (room, file, entry) in FIXED.items():
        found = schema.knobs(room, file, entry)
        known |= {f"{section}.{k}": knob for k, knob in found.items() if not knob.required}
    numbers = schema.hyper("core", "optim") | schema.hyper("tasks", groups["task"]["name"])
    for optimizer, more in schema.hyper_of("core", "optim").items():
        numbers |= more if optimizer in _optimizers(groups["optim"]) else {}
    known |= {f"hyper.{k}": Knob(v, "float", required=False) for k, v in numbers.items()}
    known |= _moving(groups["optim"], numbers, source)
    for key, inner in groups["evals"].items():
        known |= _seam(f"evals.{key}", "evals", inner, source)
    return known | {"init_from": Knob({}, "dict[str, str]", required=False)}


def _moving(group: Mapping[str, Any], numbers: Mapping[str, float], source: str) -> dict[str, Knob]:
    """The settings that `optim.burn_in` brings; see `core.burn_in`."""
    said = group.get("burn_in")
    names = [n for n in said if isinstance(n, str)] if isinstance(said, tuple | list) else []
    for name in names:
        if name not in numbers:
            raise UserError(
                f"{source}: optim.burn_in: there is no number '{name}' in hyper."
                f"{nearest(name, numbers)} There are: {', '.join(sorted(numbers))}"
            )
    brought = ["burn_in", *(f"{name}_first" for name in names)] if names else []
    return {f"hyper.{name}": Knob(None, "float", required=True) for name in brought}


def _optimizers(group: Mapping[str, Any]) -> set[Any]:
    """The names of optimizers that the section `optim` and its rules give."""
    rules = group.get("rules")
    pairs = [rule for rule in rules or () if isinstance(rule, tuple | list) and len(rule) == 2]
    said = [group, *(settings for _, settings in pairs if isinstance(settings, Mapping))]
    return {one["name"] for one in said if isinstance(one.get("name"), str)}


def _group(cfg: Mapping[str, Any], section: str, source: str) -> Mapping[str, Any]:
    if section not in cfg:
        raise UserError(f"{source} lacks '{section}'")
    group = cfg[section]
    if not isinstance(group, Mapping):
        raise UserError(f"{source}: {section} is {group!r}; expected a group of settings")
    return group


def unknown(path: str, known: Mapping[str, Knob]) -> str:
    """Says that there is no such setting, and which one may have been meant."""
    if path in HANDED:
        return f"it follows from another setting; set '{HANDED[path]}'"
    inside = [key for key in known if key.startswith(f"{path}.")]
    if inside:
        return f"it is a group of settings; set one of {', '.join(inside)}"
    above = next((key for key in known if path.startswith(f"{key}.")), None)
    if above:
        return f"'{above}' is a single value, with no settings inside"
    last = path.rpartition(".")[2]

    def likeness(other: str) -> float:
        # A right name in the wrong section counts as much as a slip in the right one.
        whole = difflib.SequenceMatcher(None, path, other).ratio()
        name = difflib.SequenceMatcher(None, last, other.rpartition(".")[2]).ratio()
        return (whole + name) / 2

    best = max(known, key=likeness, default="")
    if best and likeness(best) >= 0.6:
        return f"there is no such setting. Did you mean '{best}'?"
    siblings = [key for key in known if key.startswith(path.rpartition(".")[0] + ".")]
    return f"there is no such setting; there are: {', '.join(siblings or SECTIONS)}"


def settings(
    group: Mapping[str, Any], known: Mapping[str, Knob], prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    """Yields (path, value) for what a config sets, down to what `known` calls a setting."""
    for key, value in group.items():
        path = f"{prefix}{key}"
        is_group = path in SECTIONS or any(other.startswith(f"{path}.") for other in known)
        if path not in known and is_group and isinstance(value, Mapping):
            yield from settings(value, known, f"{path}.")
        else:
            yield path, value


def _seam(where: str, room: str, group: Any, source: str) -> dict[str, Knob]:
    """The settings of a section whose module the config names, nested models included."""
    if not isinstance(group, Mapping):
        raise UserError(f"{source}: {where} is {group!r}; expected a group of settings with a name")
    if "name" not in group or not isinstance(group["name"], str):
        raise UserError(f"{source} lacks '{where}.name': one of {', '.join(schema.names(room))}")
    try:
        found = schema.knobs(room, group["name"])
    except UserError as error:
        raise UserError(f"{source}: {where}.name: {error}") from None
    known = {f"{where}.name": Knob(None, "str", required=True)}
    for key, knob in found.items():
        inner = group.get(key)
        if not knob.required:
            known[f"{where}.{key}"] = knob
        elif isinstance(inner, Mapping) and ("name" in inner or is_model(key, knob)):
            known |= _seam(f"{where}.{key}", "models", inner, source)
        elif room == "tasks" and is_model(key, knob):
            models = ", ".join(schema.names("models"))
            raise UserError(f"{source} lacks '{where}.{key}.name': one of {models}")
    return known


def is_model(key: str, knob: Knob) -> bool:
    """Whether a parameter without a default is a network, which the recipe has to name."""
    kind = knob.annotation.split(".")[-1]
    return knob.required and (key == "model" or kind in ("Module", "dict[str, Any]"))
