"""Two networks as pure functions: made, judged, scored, drawn from. No step is taken here.

Letters: B = examples, Z = latent numbers, m = packing, F = features.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from aigc_jax.core.task import Batch, Metrics, Weights, row_keys
from aigc_jax.errors import UserError, nearest
from aigc_jax.losses import adversarial as losses
from aigc_jax.models.augment import KARRAS, POLICIES
from aigc_jax.models.conditioning import MOMENTUM, Judged, Pair

Tree = Any


class Rules(NamedTuple):
    """How the game is played; see `gan.make`."""

    loss: str
    penalties: tuple[str, ...]
    penalty_every: int
    critic_steps: int
    packing: int
    unroll: int
    augment: str
    latent: str
    own_rows: bool = False
    categories: tuple[int, ...] = ()

    @property
    def parts(self) -> int:
        """In how many a batch is divided: one for each of the discriminator's steps, and one for
        the generator's where that has rows of its own.
        """
        return self.critic_steps + int(self.own_rows)

    def check(self, shape: tuple[int, ...], batch: int, labels: bool) -> None:
        """Raises UserError for a name that doesn't exist or numbers that don't fit."""
        for knob, words, known in (
            ("loss", (self.loss,), tuple(losses.GAMES)),
            ("penalties", self.penalties, losses.PENALTY_NAMES),
            ("augment", (self.augment,), POLICIES),
            ("latent", (self.latent,), ("normal", "uniform")),
        ):
            for word in words:
                if word not in known:
                    raise UserError(
                        f"task.{knob}: there is no {word!r}.{nearest(word, known)} There are:"
                        f" {', '.join(known)}."
                    )
        for knob, least in (("penalty_every", 1), ("critic_steps", 1), ("packing", 1)):
            if getattr(self, knob) < least:
                raise UserError(f"task.{knob}={getattr(self, knob)}: expected {least} or more.")
        if min(self.categories, default=2) < 2:
            raise UserError(f"task.categories={self.categories}: expected 2 or more of each.")
        if self.unroll < 0:
            raise UserError(f"task.unroll={self.unroll}: expected 0 (none) or more.")
        parts = self.parts * self.packing
        if batch % parts or batch == 0:
            more = " and one of the generator (task.own_rows)" if self.own_rows else ""
            raise UserError(
                f"run.batch_size={batch} is divided among task.critic_steps={self.critic_steps}"
                f" steps{more} of task.packing={self.packing} examples at a time; choose a multiple"
                f" of {parts}."
            )
        if self.augment != "none" and len(shape) != 3:
            raise UserError(f"task.augment={self.augment!r} changes images; this data has none.")
        if self.augment in KARRAS and shape[-1] not in (1, 3):
            raise UserError(
                f"task.augment={self.augment!r} turns colours, and images of {shape[-1]} channels"
                " have none; use 'diffaugment', or data of 1 or 3 channels."
            )
        if self.packing > 1 and labels:
            raise UserError(
                f"task.packing={self.packing}: packed examples have no common label; leave the"
                " model's labels at 'none'."
            )


class Players:
    """A generator and a discriminator.

    Args:
      pair: the networks. shape: of one example. rules: checked.
      classes: of the labels that the networks see, 0 for none.
    """

    def __init__(self, pair: Pair, shape: tuple[int, ...], rules: Rules, classes: int = 0) -> None:
        self.pair, self.shape, self.rules = pair, shape, rules
        self.classes = classes if pair.labels else 0

    @property
    def continuous(self) -> int:
        """How many of the latents are no part of a category: they come first."""
        return self.pair.latents - sum(self.rules.categories)

    def latents(self, key: jax.Array, number: int) -> jax.Array:
        """Returns z, float32 [number, Z]: continuous numbers, then the categories, one-hot."""
        size = (number, self.continuous)
        if self.rules.latent == "uniform":
            z = jax.random.uniform(key, size, minval=-1.0)
        else:
            z = jax.random.normal(key, size)
        drawn = [
            jax.nn.one_hot(jax.random.randint(jax.random.fold_in(key, i), (number,), 0, k), k)
            for i, k in enumerate(self.rules.categories)
        ]
        return jnp.concatenate([z, *drawn], axis=-1) if drawn else z

    def generate(
        self, params: Tree, kept: Tree, z: jax.Array, label: jax.Array, train: bool = True
    ) -> tuple[jax.Array, Tree]:
        """Returns the examples made of z, and what the generator keeps."""
        variables = {"params": params, **kept}
        if not train or not kept:
            return self.pair.generator.apply(variables, z, label, train=train), kept  # type: ignore[return-value]
        return self.pair.generator.apply(variables, z, label, train=True, mutable=list(kept))  # type: ignore[return-value]

    def judge(
        self, params: Tree, kept: Tree, x: jax.Array, label: jax.Array, train: bool = True
    ) -> tuple[Judged, Tree]:
        """Returns the discriminator's answer on packed examples, and what it keeps."""
        variables = {"params": params, **kept}
        if not train or not kept:
            return self.pair.discriminator.apply(variables, x, label, train=train), kept  # type: ignore[return-value]
        return self.pair.discriminator.apply(variables, x, label, train=True, mutable=list(kept))  # type: ignore[return-value]

    def pack(self, x: jax.Array) -> jax.Array:
        """Puts m examples side by side in the channels: [B, ..., C] -> [B/m, ..., mC].

        PacGAN (Lin et al. 2018, arXiv:1712.04086).
        """
        m = self.rules.packing
        if m == 1:
            return x
        x = jnp.moveaxis(x.reshape(x.shape[0] // m, m, *x.shape[1:]), 1, -2)
        return x.reshape(*x.shape[:-2], -1)

    def unpack(self, x: jax.Array) -> jax.Array:
        """Undoes `pack`: [B/m, ..., mC] -> [B, ..., C]."""
        m = self.rules.packing
        if m == 1:
            return x
        x = jnp.moveaxis(x.reshape(*x.shape[:-1], m, x.shape[-1] // m), -2, 1)
        return x.reshape(-1, *x.shape[2:])

    def init(self, key: jax.Array) -> tuple[dict[str, Tree], dict[str, Tree]]:
        """Returns the first parameters of both, and what they keep."""
        keys = [jax.random.fold_in(key, i) for i in range(2)]
        label = jnp.zeros((2,), jnp.int32)
        z = jnp.zeros((2, self.pair.latents))
        packed = self.pack(jnp.zeros((2 * self.rules.packing, *self.shape)))
        first: dict[str, Any] = {
            "generator": self.pair.generator.init(keys[0], z, label, train=False),
            "discriminator": self.pair.discriminator.init(keys[1], packed, label, train=False),
        }
        return {name: variables.pop("params") for name, variables in first.items()}, first

    def labels(self, rows: Batch) -> jax.Array:
        """Returns the labels that the networks see, int32 [B]; zeros where they see none."""
        if self.pair.labels:
            return rows["label"]
        return jnp.zeros((rows["x"].shape[0],), jnp.int32)

    def evaluate(self, weights: Weights, batch: Batch, key: jax.Array) -> Metrics:
        """Scores the discriminator on a part of the data and on as many made examples."""
        params, kept, label = weights.params, weights.vars, self.labels(batch)
        z = jax.vmap(lambda k: self.latents(k, 1)[0])(row_keys(key, batch["index"]))
        made, _ = self.generate(params["generator"], kept["generator"], z, label, train=False)
        m = self.rules.packing
        mask = batch["mask"].reshape(-1, m).prod(1)
        answers = [
            self.judge(params["discriminator"], kept["discriminator"], self.pack(x), label[::m],
                       train=False)[0].logits[:, 0]
            for x in (batch["x"], made)
        ]  # fmt: skip
        r, f = answers
        values = {
            "loss": losses.GAMES["non_saturating"].discriminator(r, f),
            "accuracy": 0.5 * ((r > 0).astype(jnp.float32) + (f < 0).astype(jnp.float32)),
            "real_logit": r,
            "made_logit": f,
        }
        return {name: ((value * mask).sum(), mask.sum()) for name, value in values.items()}

    def draw(self, weights: Weights, keys: jax.Array, label: jax.Array) -> jax.Array:
        """Makes one example for each key."""
        return self.decode(weights, jax.vmap(lambda k: self.latents(k, 1)[0])(keys), label)

    def draw_truncated(
        self, weights: Weights, keys: jax.Array, label: jax.Array, truncation: Any = 0.0
    ) -> jax.Array:
        """Makes one example for each key; `truncation` > 0 draws normal latents again beyond it.

        The truncation trick (Brock et al. 2019, arXiv:1809.11096, section 3.1).
        """
        z = jax.vmap(lambda k: self.latents(k, 1)[0])(keys)
        far = jnp.maximum(jnp.asarray(truncation, jnp.float32), 1e-6)
        cut = jax.vmap(lambda k: jax.random.truncated_normal(k, -far, far, (self.continuous,)))(
            keys
        )
        cut = jnp.concatenate([cut, z[:, self.continuous :]], axis=-1)
        return self.decode(weights, jnp.where(jnp.asarray(truncation) > 0, cut, z), label)

    def decode(
        self, weights: Weights, z_BZ: jax.Array, label: jax.Array | None = None
    ) -> jax.Array:
        """Makes examples of given latents."""
        if label is None or not self.pair.labels:
            label = jnp.zeros((z_BZ.shape[0],), jnp.int32)
        params, kept = weights.params["generator"], weights.vars["generator"]
        return self.generate(params, kept, z_BZ, label, train=False)[0]

    def standing(self, weights: Weights, key: jax.Array, batches: int, size: int) -> Weights:
        """Returns weights whose generator has new batch statistics: means over many batches.

        Standing statistics (Brock et al. 2019, arXiv:1809.11096, section 3.1). Labels come in turn.

        Args:
          weights: to begin from. key: of the latents.
          batches: how many. size: examples in each.

        Raises:
          UserError: the generator has no batch normalization.
        """
        kept = weights.vars["generator"]
        if not jax.tree.leaves(kept):
            raise UserError(f"standing={batches}: this generator has no batch statistics.")
        label = jnp.arange(size, dtype=jnp.int32) % max(self.classes, 1)
        none = jax.tree.map(jnp.zeros_like, kept)

        def one(total: Tree, i: jax.Array) -> tuple[Tree, None]:
            z = self.latents(jax.random.fold_in(key, i), size)
            _, moved = self.generate(weights.params["generator"], none, z, label)
            return jax.tree.map(jnp.add, total, moved), None

        total, _ = jax.lax.scan(one, none, jnp.arange(batches))
        # From zero, a running mean moves by 1 - momentum of what a batch has.
        mean = jax.tree.map(lambda x: x / (batches * (1.0 - MOMENTUM)), total)
        return weights._replace(vars={**weights.vars, "generator": mean})

    def features(self, weights: Weights, batch: Batch) -> jax.Array:
        """The discriminator's last features of `x`, [B, F]; packed with copies of itself."""
        x = self.pack(jnp.repeat(batch["x"], self.rules.packing, axis=0))
        label = jnp.zeros((x.shape[0],), jnp.int32)
        params, kept = weights.params["discriminator"], weights.vars["discriminator"]
        return self.judge(params, kept, x, label, train=False)[0].features
