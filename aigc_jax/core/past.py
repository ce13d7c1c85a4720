"""What run folders of earlier times say otherwise: settings under other names, numbers in `hyper`
that there were not yet, numbers that were changed and not saved.
"""

import contextlib
from collections.abc import Iterable, Mapping
from typing import Any

_REMAT = {"block": "full", "products": "dots_no_batch"}
_AXES = {"data", "fsdp", "sequence", "tensor"}
# Numbers in `hyper` that checkpoints of optimizers lack, and what the optimizers took for them.
_GAINED = {"hyper/momentum": 0.95}  # Muon's; until 0.1 it was optax's constant


def modern(cfg: dict[str, Any]) -> dict[str, Any]:
    """Returns a saved config with today's names; what it does not know stays, and is refused."""
    with contextlib.suppress(KeyError, TypeError):
        if isinstance(cfg["mesh"]["axes"], tuple):
            cfg = {**cfg, "mesh": _mesh(cfg["mesh"])}
    with contextlib.suppress(KeyError, TypeError):
        task = cfg["task"]
        model = {**task["model"], "remat": _REMAT[task["model"]["remat"]]}
        cfg = {**cfg, "task": {**task, "model": model}}
    return cfg


def _mesh(old: dict[str, Any]) -> dict[str, Any]:
    """Until 0.1 the axes were pairs with names of any kind, and every leaf needed a rule."""
    rest = {name: old[name] for name in old if name not in ("axes", "rules", "batch_axes")}
    try:
        sizes = dict(old["axes"])
    except (TypeError, ValueError):
        return old
    if not set(sizes) <= _AXES:
        return old
    rules = tuple(rule for rule in old["rules"] if tuple(rule) != (".*", ()))
    return {**rest, **sizes, "rules": rules}


def gained(wanted: Iterable[str], saved: Iterable[str]) -> dict[str, float]:
    """Returns the leaves of a state that its checkpoint is too old to have, and their values then.

    Args:
      wanted: names of leaves ("hyper/momentum"). saved: those in the checkpoint.
    """
    there = set(saved)
    return {n: _GAINED[n] for n in wanted if n in _GAINED and n not in there}


def noted(hyper: Mapping[str, float]) -> dict[str, str]:
    """Returns `hyper` as the notes of a checkpoint keep it, for `moved`."""
    return {name: repr(float(value)) for name, value in hyper.items()}


def moved(
    notes: Mapping[str, Any], hyper: Mapping[str, float], changed: Iterable[str] = ()
) -> dict[str, float]:
    """Returns the numbers in `hyper` that are another one now than when it was saved.

    A start that is told to change a number writes it into config.json at once, and into a
    checkpoint only later. If it is killed between the two, the next start sees an unchanged config
    and an old number; what the notes say tells it so.

    Args:
      notes: of the checkpoint; old ones don't say. hyper: as configured.
      changed: names that this start is told to change.
    """
    said, now = notes.get("hyper", {}), noted(hyper)
    names = {*changed, *(name for name in now if name in said and said[name] != now[name])}
    return {name: hyper[name] for name in names}
