"""What an autoencoder is shown of a batch: gray values, or bits drawn from them.

Letters in names: B rows, D observed values of a row.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from aigc_jax.core.task import Batch, row_keys
from aigc_jax.errors import UserError, nearest
from aigc_jax.losses.observation import BINARIZATIONS, Observation, binarized, random_bits


class Observed(NamedTuple):
    """How rows become what the likelihood is of.

    Attributes:
      shape: of a row. likelihood: its name. binarize: "dynamic", "fixed" or "none"; see `make` of
        the tasks.
    """

    shape: tuple[int, ...]
    likelihood: str
    binarize: str

    @property
    def size(self) -> int:
        """D."""
        return math.prod(self.shape)

    def check(self, binarize: str) -> None:
        """Raises UserError for bits that the likelihood is not of, or no such binarization."""
        if binarize not in BINARIZATIONS:
            raise UserError(
                f"binarize={binarize!r}: expected one of {', '.join(BINARIZATIONS)}."
                f"{nearest(binarize, BINARIZATIONS)}"
            )
        if binarize != "none" and self.likelihood != "bernoulli":
            raise UserError(
                f"binarize='{binarize}' makes bits, and the likelihood '{self.likelihood}' is of"
                " gray values; set binarize='none', or likelihood='bernoulli'."
            )

    def training(self, batch: Batch, key: jax.Array) -> jax.Array:
        """Returns [B, D]; new bits come from one key for the batch, which is cheaper."""
        x_BD = batch["x"].reshape(-1, self.size)
        if self.binarize != "dynamic":
            return self.judged(batch, None, self.binarize)
        return binarized(x_BD, random_bits(key, *x_BD.shape))

    def judged(self, batch: Batch, keys_B: jax.Array | None, binarize: str) -> jax.Array:
        """Returns [B, D]; a row's bits follow from its own key, or, "fixed", from its index."""
        x_BD = batch["x"].reshape(-1, self.size)
        if binarize == "none":
            return self.gray(x_BD)
        if binarize == "fixed":
            # One key for ever: an image has the same bits in every epoch and in every run.
            keys_B = row_keys(jax.random.key(0), batch["index"])
        assert keys_B is not None
        return binarized(x_BD, jax.vmap(lambda key: random_bits(key, self.size))(keys_B))

    def gray(self, x: jax.Array) -> jax.Array:
        """Returns [B, D] without any draw: probabilities of a one, or the values themselves."""
        x_BD = x.reshape(-1, self.size)
        return 0.5 * x_BD + 0.5 if self.likelihood == "bernoulli" else x_BD


def masked(batch: Batch) -> jax.Array:
    """Returns what each row counts, float32 [B]: all 1 where the batch has no mask."""
    rows = batch["x"].shape[0]
    return batch["mask"] if "mask" in batch else jnp.ones(rows, jnp.float32)


def log_scale_of(params: Any, observation: Observation) -> jax.Array:
    """Returns the log-scale that all values share, float32 [1]."""
    if observation.learned:
        return params["likelihood"]["log_scale"]
    return jnp.full(1, observation.log_scale, jnp.float32)


def first_log_scale(observation: Observation) -> dict[str, Any]:
    """Returns the likelihood's part of the initial parameters; nothing where none is learned."""
    if not observation.learned:
        return {}
    return {"likelihood": {"log_scale": jnp.full(1, observation.log_scale, jnp.float32)}}
