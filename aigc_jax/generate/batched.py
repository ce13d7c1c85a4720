"""Drawing many independent examples with one compiled program of a fixed size."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from aigc_jax.errors import UserError


class Batched:
    """The `sample` of a task whose examples are drawn independently of each other.

    Args:
      draw: (weights, keys [B], label int32 [B], **knobs) -> float32 [B, ...]; pure. A knob is a
        float, which enters the program as data.
      classes: how many labels the family draws by; 0 for none.
      size: B of the compiled program, the most examples that are on the devices at once.

    Attributes:
      pure: `draw` as it was given. knobs: their names.
    """

    def __init__(self, draw: Callable[..., Any], *, classes: int = 0, size: int = 100) -> None:
        self.pure, self._draw = draw, jax.jit(draw)
        self.classes, self.size = classes, size
        self.knobs = tuple(inspect.signature(draw).parameters)[3:]

    def __call__(
        self,
        weights: Any,
        key: jax.Array,
        *,
        number: int,
        label: np.ndarray | None = None,
        **knobs: float,
    ) -> np.ndarray:
        """Draws examples.

        Args:
          weights: what the task's networks read.
          key: example i is drawn with fold_in(key, i), so it depends on no other.
          number: of examples, 1 or more.
          label: int [number], in [0, classes); by default 0, 1, ..., classes - 1, 0, ...
          **knobs: floats that the family knows.

        Returns:
          float32 [number, ...].

        Raises:
          UserError: a number below 1, labels that don't fit, or a knob that the family lacks.
        """
        if number < 1:
            raise UserError(f"number={number}: expected 1 example or more.")
        labels = self._labels(number, label)
        drawn = []
        for begin in range(0, number, self.size):
            # The last chunk is filled up: one shape, one program.
            place = np.arange(begin, begin + self.size, dtype=np.int32)
            chunk = jnp.asarray(labels[np.minimum(place, number - 1)])
            values = {name: np.float32(value) for name, value in knobs.items()}
            try:
                keys = jax.vmap(jax.random.fold_in, (None, 0))(key, place)
                found = self._draw(weights, keys, chunk, **values)
            except TypeError as error:
                if "keyword argument" not in str(error):
                    raise
                raise UserError(f"this model can't be sampled so: {error}.") from error
            # Fetched one chunk behind, so that the devices don't wait for the copy.
            drawn.append(found)
            if len(drawn) > 1:
                drawn[-2] = np.asarray(drawn[-2])
        return np.concatenate([np.asarray(part) for part in drawn])[:number]

    def _labels(self, number: int, label: np.ndarray | None) -> np.ndarray:
        if label is None:
            return (np.arange(number) % max(self.classes, 1)).astype(np.int32)
        labels = np.asarray(label, np.int32)
        if not self.classes:
            raise UserError("label: this model was trained without labels.")
        if labels.shape != (number,) or labels.min() < 0 or labels.max() >= self.classes:
            raise UserError(
                f"label: expected {number} whole numbers from 0 to {self.classes - 1}, one for each"
                f" example; got {np.array2string(labels, threshold=6)}."
            )
        return labels
