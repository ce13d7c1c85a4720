"""The trials of a sweep, each with its name, its whole config and the words that start it."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from aigc_jax.core import config
from aigc_jax.errors import UserError

_LONGEST = 80  # characters of a folder's name, without the id


class Planned(NamedTuple):
    """One trial, before anything has run.

    Attributes:
      id: the first 8 hex digits of its config's sha256: the same trial has it in every sweep.
      point: what it sets, by dotted path ("hyper.lr"); what the sweep varies.
      recipe, overrides: as `aigc train` takes them, the point's included.
      config: complete. workdir: its run folder.
    """

    id: str
    point: Mapping[str, Any]
    recipe: str
    overrides: tuple[str, ...]
    config: dict[str, Any]
    workdir: Path

    @property
    def command(self) -> str:
        """What starts it alone, or goes on with it."""
        words = ["aigc", "train", self.recipe, *self.overrides, f"--workdir={self.workdir}"]
        return shlex.join(words)


def plan(
    recipe: str, overrides: Sequence[str], points: Iterable[Mapping[str, Any]], root: Path
) -> list[Planned]:
    """Loads the config of each point, in order; each config stands once.

    Args:
      recipe, overrides: of all trials, as typed. points: dotted path -> value.
      root: of the run folders.

    Raises:
      UserError: whatever `config.load` finds wrong with a point.
    """
    planned: dict[str, Planned] = {}
    load = config.loader(recipe, overrides)
    for point in points:
        own = [word(path, value) for path, value in point.items()]
        cfg, words = load(own), (*overrides, *own)
        digest = config.digest(cfg)[:8]
        if digest not in planned:
            planned[digest] = Planned(
                digest, dict(point), recipe, words, config.to_dict(cfg),
                root / _folder(point, digest),
            )  # fmt: skip
        elif planned[digest].config != config.to_dict(cfg):
            raise UserError(f"two trials share the id {digest}; change any setting of one of them.")
    return list(planned.values())


def structure(plain: Mapping[str, Any]) -> str:
    """What the compiled programs of a run follow from: all but the numbers in `hyper` and the seed.

    Args:
      plain: a complete config.
    """
    run = {name: value for name, value in plain["run"].items() if name != "seed"}
    return config.digest({**plain, "run": run, "hyper": dict.fromkeys(plain["hyper"])})


def word(path: str, value: Any) -> str:
    """Returns a setting as one types it: ("hyper.lr", 0.1) -> "--config.hyper.lr=0.1"."""
    return f"--config.{path}={value if isinstance(value, str) else repr(value)}"


def _folder(point: Mapping[str, Any], digest: str) -> str:
    """What a trial sets, readable, and its id: "lr=0.001,seed=0-3fa9c1d2"."""
    said = ",".join(f"{path.rpartition('.')[2]}={value}" for path, value in point.items())
    safe = "".join(c if c.isalnum() or c in "=,._+-" else "_" for c in said)[:_LONGEST]
    return f"{safe}-{digest}" if safe else digest
