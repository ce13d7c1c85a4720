"""One trial after another in one process, where JAX is warm: what differs in numbers alone compiles
once. For the engines that keep processes, such as Ray.
"""

from pathlib import Path
from typing import Any

from aigc_jax.cli import train, wire

_shelf = wire.Shelf()


def one(cfg: Any, workdir: Path, **more: Any) -> Any:
    """Does what `train.one` does, with what the last trial of this process has left."""
    return train.one(cfg, workdir, parts=_shelf.parts, **more)
