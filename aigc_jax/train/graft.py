"""Weights of one run put into another, and how a state that does not fit is told."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from aigc_jax.core import optimizers, tree
from aigc_jax.errors import UserError

_LISTED = 12  # names of a kind in a message


def misfit(here: Mapping[str, Any], there: Mapping[str, Any]) -> str:
    """Says which of the arrays `here` are missing `there`, extra, or of another shape; "" if none.

    Args:
      here: what is wanted, by name. there: what was found.
    """
    shapes = [
        f"{name} {list(there[name].shape)} for {list(here[name].shape)}"
        for name in here
        if name in there and tuple(here[name].shape) != tuple(there[name].shape)
    ]
    problems = {
        "missing": [name for name in here if name not in there],
        "extra": [name for name in there if name not in here],
        "differently shaped": shapes,
    }
    listed = []
    for what, names in problems.items():
        if names:
            more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
            listed.append(f"{what}: {', '.join(names[:_LISTED])}{more}")
    return "; ".join(listed)


def read_subtree(folder: Path, path: str) -> tree.Tree:
    """Reads one part of a run's newest checkpoint without knowing its model.

    Args:
      folder: RUN/checkpoints. path: such as "params/model".

    Returns:
      A tree of host arrays, nested as it was.

    Raises:
      UserError: no checkpoint, or no such part (the parts that there are get listed).
    """
    steps = sorted(int(p.name) for p in folder.glob("*") if p.name.isdigit())
    if not steps:
        raise UserError(f"init_from: no checkpoint in {folder}; has that run saved one?")
    for step in reversed(steps):
        try:
            return _read(folder.absolute() / str(step) / "state", path)
        except UserError:
            raise
        except Exception as error:
            problem = f"{step}: {str(error).strip().splitlines()[0][:200]}"
            print(f"aigc: warning: init_from: can't read checkpoint {problem}", file=sys.stderr)
    raise UserError(f"init_from: none of the checkpoints in {folder} can be read.")


def _read(item: Path, path: str) -> tree.Tree:
    with ocp.StandardCheckpointer() as reader:
        part = reader.metadata(item).item_metadata.tree
    for name in path.split("/"):
        if not isinstance(part, dict) or name not in part:
            names = ", ".join(part) if isinstance(part, dict) else "nothing below it"
            raise UserError(f"init_from: no '{name}' of '{path}' in {item}; it has: {names}.")
        part = part[name]
    whole = read_state(item)
    for name in path.split("/"):
        whole = whole[name]
    return whole


def read_state(item: Path) -> tree.Tree:
    """Reads a saved state as host arrays, nested as it was, without knowing what saved it.

    Args:
      item: RUN/checkpoints/STEP/state.
    """
    device = jax.sharding.SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
    with ocp.StandardCheckpointer() as reader:
        found = reader.metadata(item.absolute()).item_metadata.tree
        shapes = jax.tree.map(
            lambda m: jax.ShapeDtypeStruct(m.shape, m.dtype, sharding=device), found
        )
        return jax.tree.map(np.asarray, reader.restore(item.absolute(), shapes))


def graft(target: tree.Tree, path: str, source: tree.Tree) -> tree.Tree:
    """Puts `source` in the place of the part `path` of a state.

    Raises:
      UserError: the parts differ; missing, extra and differently shaped names are listed.
    """
    attribute, *rest = path.split("/")
    holder = getattr(target, attribute, None)
    if holder is None or attribute not in ("params", "vars", "ema"):
        raise UserError(f"init_from: '{path}' must begin with params/, vars/ or ema/.")
    branch = holder
    for name in rest:
        if not isinstance(branch, Mapping) or name not in branch:
            names = ", ".join(branch) if isinstance(branch, Mapping) else "nothing below it"
            raise UserError(f"init_from: no '{name}' of '{path}' in this model; it has: {names}.")
        branch = branch[name]
    here, there = dict(tree.named_leaves(branch)), dict(tree.named_leaves(source))
    if words := misfit(here, there):
        raise UserError(f"init_from: '{path}' does not fit. {words}.")
    by_name = lambda name, leaf: jax.device_put(there[name].astype(leaf.dtype), leaf.sharding)  # noqa: E731
    new = tree.map_named(by_name, branch)
    for i in range(len(rest) - 1, -1, -1):
        outer = holder
        for name in rest[:i]:
            outer = outer[name]
        new = {**outer, rest[i]: new}
    target = target.replace(**{attribute: new})
    if attribute == "params":
        fresh = {side: optimizers.restarted(opt, new) for side, opt in target.opt.items()}
        target = target.replace(opt=fresh)
    return target
