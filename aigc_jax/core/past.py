"""Settings that run folders of earlier versions have under other names."""

import contextlib
from typing import Any

_REMAT = {"block": "full", "products": "dots_no_batch"}
_AXES = {"data", "fsdp", "sequence", "tensor"}


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
