"""A small convolutional network for images.

Letters in names: B images, H, W, C, N = B * H * W.
"""

from typing import Any

import flax.linen as nn
import jax

from aigc_jax.errors import UserError
from aigc_jax.models.patches import Near


class CNN(nn.Module):
    """Stages of a 3x3 convolution, ReLU and a 2x2 maximum; a hidden layer; a linear one.

    Attributes:
      classes: numbers that come out. shape: H, W, C of the images.
      widths: channels of each stage; each halves height and width.
      hidden: width of the layer before the last; see `features`.
      dropout: in [0, 1), before the last layer.
    """

    classes: int
    shape: Any
    widths: tuple[int, ...] = (32, 64)
    hidden: int = 128
    dropout: float = 0.25

    def check(self) -> None:
        """Raises UserError for sizes that do not fit."""
        if not self.widths or min(*self.widths, self.hidden) < 1:
            raise UserError(
                f"task.model: widths={self.widths}, hidden={self.hidden}: expected at least one"
                " stage, and 1 or more of each."
            )
        if min(self.shape[:2]) < (least := 2 ** len(self.widths)):
            raise UserError(
                f"images of {self.shape[0]} x {self.shape[1]} are too small for"
                f" {len(self.widths)} stages that halve them: expected {least} x {least} or more,"
                " or fewer of task.model.widths."
            )
        if not 0.0 <= self.dropout < 1.0:
            raise UserError(f"task.model.dropout={self.dropout}: expected a number in [0, 1).")

    def setup(self) -> None:
        self.stages = [Near(width, name=f"stage_{i}") for i, width in enumerate(self.widths)]
        self.middle = nn.Dense(self.hidden, name="hidden")
        self.drop = nn.Dropout(self.dropout, name="dropout")
        self.last = nn.Dense(self.classes, name="head")

    def features(self, x_BHWC: jax.Array) -> jax.Array:
        """Returns what the hidden layer says of each image, after its ReLU: [B, hidden]."""
        x = x_BHWC
        for stage in self.stages:
            x = _largest(nn.relu(stage(x)))
        return nn.relu(self.middle(x.reshape(x.shape[0], -1)))

    def __call__(self, x_BHWC: jax.Array, *, deterministic: bool = True) -> jax.Array:
        """Returns logits, float32 [B, classes]."""
        h = self.drop(self.features(x_BHWC), deterministic=deterministic)
        return self.last(h)


def _largest(x_BHWC: jax.Array) -> jax.Array:
    """The maxima of 2 x 2 pixels; an odd last row or column is left out.

    By a change of shape: the gradient of a sliding maximum takes most of a step on XLA's CPU.
    """
    b, h, w, c = x_BHWC.shape
    even = x_BHWC[:, : h // 2 * 2, : w // 2 * 2]
    return even.reshape(b, h // 2, 2, w // 2, 2, c).max((2, 4))


make = CNN
