"""Settings typed on a command line, `--config.a.b=v`, and how they get into a config."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from aigc_jax.core import schema, values
from aigc_jax.core.layout import SEAMS, is_model, unknown
from aigc_jax.core.schema import Knob
from aigc_jax.errors import UserError


class Override(NamedTuple):
    """One setting as typed: `word` is "--config.a.b=v", `path` "a.b", `text` "v"."""

    path: str
    text: str
    word: str

    @property
    def names_module(self) -> bool:
        """Whether it says which module is used, and so decides which other settings exist."""
        section, *inner = self.path.split(".")
        depth = {"task": len(inner), "data": 1, "evals": 2, "optim": 1}
        return inner[-1:] == ["name"] and section in depth and len(inner) == depth[section]


def read(word: str) -> Override:
    """Takes "--config.a.b=v" apart; UserError where it has another form."""
    head, mark, text = word.partition("=")
    path = head.removeprefix("--config.")
    if path == head or not all(path.split(".")):
        raise UserError(f"{word} is no setting; expected --config.SECTION.NAME=VALUE")
    if not mark:
        raise UserError(f"{word} has no value; write {word}=VALUE (=true or =false for a switch)")
    return Override(path, text, word)


def rename(cfg: dict[str, Any], typed: Override) -> None:
    """Puts the name of another module into a recipe's dict, in place.

    Raises UserError where there is no such module, or no place for one.
    """
    section, *inner, _ = typed.path.split(".")
    group = _group(cfg, section, typed)
    if section == "optim":  # a function of optax, which only `core.optim` looks up
        group["name"] = typed.text
        return
    room = "evals" if section == "evals" else SEAMS[section]
    for part in inner:
        if section == "task":
            _check_takes_model(room, group, part, typed)
            room = "models"
        group = _group(group, part, typed)
    try:
        schema.knobs(room, typed.text)
    except UserError as error:
        raise UserError(f"{typed.word}: {error}") from None
    group["name"] = typed.text


def apply(cfg: dict[str, Any], known: Mapping[str, Knob], typed: Override) -> None:
    """Sets one value of a filled config, in place; `known` is its layout.

    Raises UserError where there is no such setting, or the text doesn't fit its type.
    """
    try:
        if typed.path in known:
            parent, key = place(cfg, typed.path)
            parent[key] = values.parse(known[typed.path].annotation, typed.text)
            return
        # A key of a setting that is itself a dict: --config.init_from.params/policy=...
        for owner, knob in known.items():
            kind = values.item(knob.annotation)
            if kind is not None and typed.path.startswith(f"{owner}."):
                parent, key = place(cfg, owner)
                entry = {typed.path.removeprefix(f"{owner}."): values.parse(kind, typed.text)}
                parent[key] = (parent[key] or {}) | entry
                return
    except values.Unfit as error:
        raise UserError(f"{typed.word}: {error}") from None
    raise UserError(f"{typed.word}: {unknown(typed.path, known)}")


def place(cfg: dict[str, Any], path: str) -> tuple[dict[str, Any], str]:
    """Returns the dict that a dotted path ends in, made where it is missing, and the last key."""
    *parents, key = path.split(".")
    group = cfg
    for part in parents:
        group = group.setdefault(part, {})
    return group, key


def _group(parent: dict[str, Any], key: str, typed: Override) -> dict[str, Any]:
    group = parent.setdefault(key, {})
    if not isinstance(group, dict):
        raise UserError(f"{typed.word}: the recipe's '{key}' is {group!r}, no group of settings")
    return group


def _check_takes_model(room: str, group: dict[str, Any], part: str, typed: Override) -> None:
    """Checks that the module which `group` names takes a network called `part`."""
    if part in group or "name" not in group:
        return
    found = schema.knobs(room, group["name"])
    if part not in found or not found[part].required:
        where = typed.path.partition(f".{part}.")[0]
        models = {f"{where}.{k}.name": v for k, v in found.items() if is_model(k, v)}
        raise UserError(f"{typed.word}: {unknown(typed.path, models)}")
