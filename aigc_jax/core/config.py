"""Configs: a recipe, filled with every default, checked, changed from the command line, compared.

A recipe says only what differs. `load` copies the defaults in from the signatures that own them
(`core.schema`), so the saved config is complete and no default stands twice. Nothing here imports
JAX, except `maker` and `build`, which import the module that was named.
"""

import hashlib
import importlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from aigc_jax.core import overrides as override_words
from aigc_jax.core import past, recipe, schema, values
from aigc_jax.core.layout import SECTIONS, layout, settings, unknown
from aigc_jax.errors import UserError


class _Absent:
    """Stands for a value that one of two configs lacks."""

    def __repr__(self) -> str:
        return "(absent)"


ABSENT = _Absent()


def load(spec: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """Makes the config of a run: the recipe, then the defaults, then what was typed.

    Args:
      spec: "path/to/recipe.py[:ARG]"; see `core.recipe.read`.
      overrides: settings as typed, "--config.a.b=v"; the last one of a kind counts. Those that name
        a module ("--config.task.model.name=gpt") are applied first, since they decide which other
        settings exist.

    Returns a locked ConfigDict, complete and checked.

    Raises:
      UserError: anything wrong in the recipe or in an override; one line, with the nearest right
        name where there is one.
    """
    return loader(spec, overrides)(())


def loader(spec: str, overrides: Sequence[str] = ()) -> Callable[[Sequence[str]], ConfigDict]:
    """Reads a recipe once, for many configs that differ in a few settings.

    Args:
      spec, overrides: as of `load`, which says what is raised.

    Returns:
      A function that takes more overrides and returns what `load` does with all of them.
    """
    cfg, label = recipe.read(spec)
    cfg, known = _changed(cfg, overrides, label)

    def more(words: Sequence[str]) -> ConfigDict:
        extra = [override_words.read(word) for word in words]
        if any(item.names_module for item in extra):
            return load(spec, [*overrides, *words])
        copied = to_dict(cfg)
        for item in extra:
            override_words.apply(copied, known, item)
        return ConfigDict(copied, allow_dotted_keys=True).lock()

    return more


def changed(cfg: Mapping[str, Any], overrides: Sequence[str], source: str) -> dict[str, Any]:
    """Returns a config with the defaults and what was typed in it, complete and checked.

    Args:
      cfg: as a recipe gives it, or complete. overrides: as of `load`.
      source: the name that messages give the config.

    Raises:
      UserError: anything wrong in the config or in an override, as of `load`.
    """
    return _changed(to_dict(cfg), overrides, source)[0]


def _changed(
    cfg: dict[str, Any], overrides: Sequence[str], source: str
) -> tuple[dict[str, Any], dict[str, schema.Knob]]:
    """Does what `changed` does, in place; gives the layout too."""
    typed = [override_words.read(word) for word in overrides]
    # Outer names first: a task's name decides which networks it takes.
    for item in sorted(typed, key=lambda item: item.path.count(".")):
        if item.names_module:
            override_words.rename(cfg, item)
    cfg = fill(cfg, source)
    check(cfg, source)
    known = layout(cfg, source)
    for item in typed:
        if not item.names_module:
            override_words.apply(cfg, known, item)
    return cfg, known


def fill(cfg: Mapping[str, Any], source: str = "the config") -> dict[str, Any]:
    """Returns a plain copy with every default in it, and values in their annotated form.

    Lists become tuples and ints become floats where the schema says so; what doesn't fit is left
    for `check`. `source` is the name that messages give the config.

    Raises:
      UserError: a module's name is missing or wrong, so that its settings can't be known.
    """
    filled = to_dict(cfg)
    for section in SECTIONS:
        filled.setdefault(section, {})
    filled = {key: filled[key] for key in [*SECTIONS, *(k for k in filled if k not in SECTIONS)]}
    for path, knob in layout(filled, source).items():
        parent, key = override_words.place(filled, path)
        if key in parent:
            try:
                parent[key] = values.coerce(knob.annotation, parent[key])
            except values.Unfit:
                continue  # `check` says what is wrong with it
        elif not knob.required:
            parent[key] = knob.default  # read anew each time, so nothing is shared
    return filled


def check(cfg: Mapping[str, Any], source: str = "the config") -> None:
    """Raises UserError unless every setting is known, of its type, and there.

    `cfg` is a config that `fill` has completed; `source` is the name that messages give it.
    """
    plain = to_dict(cfg)
    known = layout(plain, source)
    for path, value in settings(plain, known):
        if path not in known:
            raise UserError(f"{source} sets '{path}': {unknown(path, known)}")
        try:
            values.coerce(known[path].annotation, value)
        except values.Unfit as error:
            raise UserError(f"{source}: {path} is {value!r}; {error}") from None
    present = dict(settings(plain, known))
    for path in known:
        if path not in present:
            raise UserError(f"{source} lacks '{path}'")


def to_dict(cfg: ConfigDict | Mapping[str, Any]) -> dict[str, Any]:
    """Returns a plain copy, nested dicts included; tuples stay tuples."""
    plain = cfg.to_dict() if isinstance(cfg, ConfigDict) else cfg
    return {key: _copied(value) for key, value in plain.items()}


def to_json(cfg: ConfigDict | Mapping[str, Any]) -> str:
    """Returns strict JSON with sorted keys: tuples are lists, and inf is the text "inf"."""
    return json.dumps(_jsonable(to_dict(cfg)), indent=2, sort_keys=True, allow_nan=False) + "\n"


def from_json(text: str) -> dict[str, Any]:
    """Reads `to_json`'s text: lists become tuples, and `fill` turns "inf" into a number again.

    Names of earlier versions become today's. Raises UserError where the text is no JSON object.
    """
    try:
        loaded = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"the saved config is damaged: {error}") from None
    if not isinstance(loaded, dict):
        raise UserError(f"the saved config is damaged: it holds {type(loaded).__name__}, no object")
    return past.modern({key: _tupled(value) for key, value in loaded.items()})


def digest(cfg: ConfigDict | Mapping[str, Any]) -> str:
    """Returns the sha256 (hex) of the config's canonical JSON."""
    return hashlib.sha256(_canonical(to_dict(cfg)).encode()).hexdigest()


def diff(
    a: ConfigDict | Mapping[str, Any], b: ConfigDict | Mapping[str, Any]
) -> list[tuple[str, Any, Any]]:
    """Returns (dotted path, value in a, value in b) for each difference, sorted by path.

    A value that one side lacks is `ABSENT`, which prints as "(absent)".
    """
    left, right = dict(_leaves(to_dict(a))), dict(_leaves(to_dict(b)))
    found = []
    for path in sorted(left.keys() | right.keys()):
        one, other = left.get(path, ABSENT), right.get(path, ABSENT)
        # As JSON, so that a config read back from its file equals itself, and True isn't 1.
        if ABSENT in (one, other) or _canonical(one) != _canonical(other):
            found.append((path, one, other))
    return found


def maker(room: str, name: str) -> Callable[..., Any]:
    """Imports a module that a config names and returns its `make`; UserError for a wrong name."""
    schema.knobs(room, name)
    make: Callable[..., Any] = importlib.import_module(schema.module_name(room, name)).make
    return make


def build(room: str, section: Mapping[str, Any], **handed_in: Any) -> Any:
    """Calls the `make` that `section["name"]` says, with the section's other settings.

    `handed_in` are the parameters without a default. A nested model stays what it is, a dict of
    settings with a name: its task builds it, since it alone knows the shapes.
    """
    plain = to_dict(section)
    return maker(room, plain.pop("name"))(**(plain | handed_in))


def _leaves(group: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in group.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _copied(value: Any) -> Any:
    if isinstance(value, Mapping | ConfigDict):
        return to_dict(value)
    if isinstance(value, list):
        return [_copied(item) for item in value]
    return tuple(_copied(item) for item in value) if isinstance(value, tuple) else value


def _tupled(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tupled(item) for key, item in value.items()}
    return tuple(_tupled(item) for item in value) if isinstance(value, tuple | list) else value


def _canonical(value: Any) -> str:
    return json.dumps(_jsonable(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _jsonable(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
