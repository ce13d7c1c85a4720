"""Variational autoencoders: one or more stochastic layers, the evidence bound or the K-sample one.

Letters in names: K samples, B rows, N = K*B, D observed values of a row, L latent values of a
layer, Z of all layers together.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from aigc_jax.core.config import maker
from aigc_jax.core.optim import Hyper, Optimizer
from aigc_jax.core.task import (
    Batch,
    Metrics,
    State,
    Task,
    Weights,
    row_keys,
    single,
    supervised,
)
from aigc_jax.errors import UserError
from aigc_jax.generate.batched import Batched
from aigc_jax.losses import latent as latent_losses
from aigc_jax.losses.latent import free_bits, importance_bound, log_normal, log_standard
from aigc_jax.losses.observation import OF_LEVELS, Observation, observation
from aigc_jax.tasks.observed import Observed, first_log_scale, log_scale_of, masked

HYPER = {
    "beta": 1.0,  # weight of the latents' cost in what is minimized
    "kl_warmup": 0.0,  # steps over which that weight rises from 0
    "free_bits": 0.0,  # nats that each latent costs at least, so that it has no gain from less
}


def make(
    spec: Any,
    optimizer: Optimizer,
    model: dict[str, Any],
    *,
    likelihood: Literal[
        "bernoulli", "discretized_logistic", "gaussian", "logistic_mixture"
    ] = "bernoulli",
    scale: Literal["fixed", "shared", "pixel"] = "shared",
    sigma: float = 0.1,
    mixtures: int = 10,
    binarize: Literal["dynamic", "fixed", "none"] = "dynamic",
    objective: Literal["elbo", "iwae"] = "elbo",
    samples: int = 1,
    conditional: bool = False,
    skip_norm: float = 0.0,
    accumulate: int = 1,
) -> Task:
    """Makes the task.

    Batches hold `x` float32 [B, ...] in [-1, 1], `index` int32 [B], where `conditional` also
    `label` int32 [B], and in evaluations `mask` float32 [B].

    Metrics, in nats per example: "loss", in training what is minimized, with beta, warm-up and
    free bits; "nll_bound" (training) the bare negative bound, which is the "loss" of an evaluation;
    "reconstruction", -E log p(x | z); "kl", what the latents cost (with reconstruction it makes the
    negative evidence bound, also where the objective is another); "kl_weight" (training) beta as it
    stands in the warm-up; "skipped" (training, with `skip_norm`) 1 for a step not taken;
    "bits_per_dim" for 8-bit values.

    Functions, on codes: a code is what all stochastic layers have drawn, from the data up, in
    standard deviations of their priors from their priors' means. So under the prior it is standard
    normal whatever the network; with one layer it is z itself. "encode" (weights, x, key,
    label=None) -> [B, Z], drawn from the posterior; "decode" (weights, code, label=None) -> x in
    [-1, 1], the mean; "latents" (key, number) -> [number, Z] from the prior; "features" (weights,
    batch) -> [B, Z], the posterior's means, each layer's given those that it follows from;
    "reconstruct" (weights, batch, key) -> x, what they decode to; "log_weights" (weights, batch,
    key, first, *, k, binarize) -> log p(x, z) - log q(z | x) of samples first .. first + k - 1,
    float32 [k, B]; "check_bits" (binarize), which raises where the likelihood is not of such bits.

    Args:
      spec: the data's spec; reads the facts `shape` and, where `conditional`, `classes`.
      optimizer: from `core.optim.make`.
      model: `name` of a module in `models/` and its settings. The module takes `shape`, `classes`
        and `planes`, and is a network as `models.vae_mlp` says.
      likelihood, scale, sigma, mixtures: see `losses.observation.observation`.
      binarize: "dynamic": new bits each time an image is seen, 1 with probability (x + 1) / 2;
        "fixed": the same bits always; "none": gray values. Results under two of them do not
        compare.
      objective: "elbo" (Kingma & Welling 2014, arXiv:1312.6114) or "iwae" (Burda et al. 2016,
        arXiv:1509.00519).
      samples: K; the mean of K evidence bounds, or the K-sample bound.
      conditional: encoder and decoder are told the label.
      skip_norm: a step whose gradient is this long or longer, before clipping, or is not finite, is
        not taken: only the count goes on (Child 2021, arXiv:2011.10650, section 3.2 and appendix).
        0 takes all.
      accumulate: micro-batches a step.

    Raises:
      UserError: a setting that does not fit the others or the data.
    """
    if samples < 1:
        raise UserError(f"task.samples={samples}: expected 1 or more.")
    if not skip_norm >= 0:
        raise UserError(f"task.skip_norm={skip_norm}: expected a norm above 0, or 0 for no limit.")
    facts = spec.facts
    classes = facts["classes"] if conditional else 0
    if conditional and not classes:
        raise UserError("task.conditional=True: this data has no labels.")
    seen = Observed(tuple(facts["shape"]), likelihood, binarize)
    seen.check(binarize)
    pixels = observation(likelihood, scale, sigma, channels=seen.shape[-1], mixtures=mixtures)
    settings = {key: value for key, value in model.items() if key != "name"}
    network = maker("models", model["name"])(
        shape=seen.shape, classes=classes, planes=pixels.planes, **settings
    )
    network.check()
    family = _Family(network, pixels, seen, conditional)

    def scores(params: Any, x_BD: jax.Array, batch: Batch, noise: Any, hyper: Hyper | None) -> _Met:
        label_B = batch["label"] if conditional else None
        passed = network.apply({"params": params["model"]}, x_BD, label_B, noise)
        log_p_KB = pixels.log_p(passed.out, x_BD[None], log_scale_of(params, pixels))
        costs = [_cost(layer, closed=objective == "elbo") for layer in passed.latents]
        cost_KB = sum_of(costs, log_p_KB)
        bound = importance_bound if objective == "iwae" else _mean_bound
        plain_B = -bound(log_p_KB - cost_KB)
        mask = masked(batch)
        if hyper is None:
            trained_B = plain_B
        else:
            weights_N = [jnp.tile(mask, cost.shape[0]) for cost in costs]
            kept = [
                free_bits(cost.reshape(-1, cost.shape[2]), hyper["free_bits"], weight).reshape(
                    cost.shape
                )
                for cost, weight in zip(costs, weights_N, strict=True)
            ]
            trained_B = -bound(log_p_KB - hyper["kl_weight"] * sum_of(kept, log_p_KB))
        return _Met(trained_B, plain_B, -log_p_KB.mean(0), cost_KB.mean(0), mask)

    def loss(
        params: Any, variables: Any, batch: Batch, key: jax.Array, hyper: Hyper
    ) -> tuple[Metrics, Any]:
        x_BD = seen.training(batch, jax.random.fold_in(key, 0))
        noise = tuple(
            jax.random.normal(jax.random.fold_in(key, 1 + i), (samples, x_BD.shape[0], size))
            for i, size in enumerate(network.latents)
        )
        met = scores(params, x_BD, batch, noise, hyper)
        return {"nll_bound": met.mean(met.plain_B), **met.metrics(met.trained_B)}, variables

    def init_variables(key: jax.Array) -> tuple[dict[str, Any], dict[str, Any]]:
        label = jnp.zeros(1, jnp.int32) if conditional else None
        noise = tuple(jnp.zeros((1, 1, size)) for size in network.latents)
        found = network.init(key, jnp.zeros((1, seen.size)), label, noise)["params"]
        return {"model": found, **first_log_scale(pixels)}, {}

    init, plain_step = supervised(init_variables, loss, optimizer, accumulate=accumulate)

    def step(state: State, batch: Batch) -> tuple[State, Metrics]:
        # The loss reads the weight as the warm-up has it at this step; the state keeps its own.
        done = (state.step + 1).astype(jnp.float32)
        weight = jnp.minimum(done / jnp.maximum(state.hyper["kl_warmup"], 1.0), 1.0)
        hyper = {**state.hyper, "kl_weight": state.hyper["beta"] * weight}
        new, metrics = plain_step(state.replace(hyper=hyper), batch)
        new = new.replace(hyper=state.hyper)
        metrics = {**metrics, "kl_weight": single(hyper["kl_weight"])}
        return _skipping(state, new, metrics, skip_norm) if skip_norm else (new, metrics)

    def evaluate(weights: Weights, batch: Batch, key: jax.Array) -> Metrics:
        keys_B = row_keys(key, batch["index"])
        x_BD = seen.judged(batch, _bits_key(keys_B), binarize)
        noise = _noise(keys_B, network.latents, jnp.int32(0), samples)
        met = scores(weights.params, x_BD, batch, noise, None)
        return met.metrics(met.plain_B)

    def finish(means: dict[str, float]) -> dict[str, float]:
        nats = means["nll_bound"] if "nll_bound" in means else means.get("loss")
        if likelihood not in OF_LEVELS or nats is None:
            return means
        return {**means, "bits_per_dim": nats / math.log(2.0) / seen.size}

    sample = Batched(family.draw, classes=classes)
    return Task(init, step, evaluate, sample, finish, family.functions())


def _skipping(old: State, new: State, metrics: Metrics, limit: float) -> tuple[State, Metrics]:
    """Returns the old state, one step further, where the gradient was too long."""
    taken = metrics["grad_norm"][0] < limit  # False for one that is not finite
    kept = jax.tree.map(
        lambda a, b: jnp.where(taken, a, b),
        (new.params, new.opt, new.vars, new.ema),
        (old.params, old.opt, old.vars, old.ema),
    )
    state = new.replace(**dict(zip(("params", "opt", "vars", "ema"), kept, strict=True)))
    return state, {**metrics, "skipped": single(1.0 - taken.astype(jnp.float32))}


class _Met(NamedTuple):
    """What is known of each row, float32 [B] each, and what the rows count."""

    trained_B: jax.Array
    plain_B: jax.Array
    reconstruction_B: jax.Array
    kl_B: jax.Array
    mask: jax.Array

    def mean(self, value_B: jax.Array) -> tuple[jax.Array, jax.Array]:
        return (value_B * self.mask).sum(), self.mask.sum()

    def metrics(self, loss_B: jax.Array) -> Metrics:
        return {
            "loss": self.mean(loss_B),
            "reconstruction": self.mean(self.reconstruction_B),
            "kl": self.mean(self.kl_B),
        }


def _mean_bound(log_w_KB: jax.Array) -> jax.Array:
    return log_w_KB.mean(0)


def sum_of(costs: list[jax.Array], like_KB: jax.Array) -> jax.Array:
    """Returns what all layers cost together, [K, B], from [1 or K, B, L] of each."""
    return sum((cost.sum(-1) for cost in costs), jnp.zeros_like(like_KB))


def _cost(layer: Any, *, closed: bool) -> jax.Array:
    """What one layer costs, by sample, row and latent: the KL where its closed form is allowed and
    holds, else log q - log p of the sample.
    """
    mean, logvar = layer.posterior
    if closed and layer.exact:
        if layer.prior is None:
            return latent_losses.kl_standard(mean, logvar)
        return latent_losses.kl(mean, logvar, *layer.prior)
    # The distance from the mean, in standard deviations, is the noise itself.
    log_q = log_standard(layer.noise_KBL) - 0.5 * logvar
    log_p = (
        log_standard(layer.z_KBL) if layer.prior is None else log_normal(layer.z_KBL, *layer.prior)
    )
    return log_q - log_p


def _code(passed: Any) -> jax.Array:
    """Returns the code of a pass's first sample, [B, Z]: the noise by which the priors would have
    drawn what the posteriors drew.
    """

    def one(layer: Any) -> jax.Array:
        if layer.prior is None:
            return layer.z_KBL[0]  # type: ignore[no-any-return]
        mean, logvar = layer.prior
        return (layer.z_KBL[0] - mean[0]) * jnp.exp(-0.5 * logvar[0])

    return jnp.concatenate([one(layer) for layer in passed.latents], axis=1)


def _bits_key(keys_B: jax.Array) -> jax.Array:
    return jax.vmap(lambda key: jax.random.fold_in(key, 0))(keys_B)


def _noise(
    keys_B: jax.Array, sizes: tuple[int, ...], first: jax.Array, count: int
) -> tuple[jax.Array, ...]:
    """Returns standard normal [K, B, L] of samples first .. first + count - 1 for each layer.

    A sample's noise follows from its row's key and its own number alone.
    """

    def one(key: jax.Array, number: jax.Array) -> tuple[jax.Array, ...]:
        own = jax.random.fold_in(jax.random.fold_in(key, 1), number)
        return tuple(
            jax.random.normal(jax.random.fold_in(own, i), (size,)) for i, size in enumerate(sizes)
        )

    over_rows = jax.vmap(one, (0, None))
    return jax.vmap(over_rows, (None, 0))(keys_B, first + jnp.arange(count, dtype=jnp.int32))


class _Family:
    """What evaluators and commands may ask of a model."""

    def __init__(
        self, network: Any, pixels: Observation, seen: Observed, conditional: bool
    ) -> None:
        self._network, self._pixels, self._seen = network, pixels, seen
        self._conditional = conditional

    def functions(self) -> dict[str, Callable[..., Any]]:
        return {
            "encode": self.encode,
            "decode": self.decode,
            "latents": self.latents,
            "features": self.features,
            "reconstruct": self.reconstruct,
            "log_weights": self.log_weights,
            "check_bits": self._seen.check,
        }

    def _pass(
        self, weights: Weights, x_BD: jax.Array, label_B: Any, noise: tuple[jax.Array, ...]
    ) -> Any:
        return self._network.apply({"params": weights.params["model"]}, x_BD, label_B, noise)

    def _decoded(self, weights: Weights, code_NZ: jax.Array, label_N: Any) -> jax.Array:
        found: jax.Array = self._network.apply(
            {"params": weights.params["model"]}, code_NZ, label_N, method="decode"
        )
        return found

    def _label(self, label_B: jax.Array | None) -> jax.Array | None:
        if self._conditional and label_B is None:
            raise UserError("this model is conditional; pass a label for each row.")
        return label_B if self._conditional else None

    def _of(self, batch: Batch) -> jax.Array | None:
        return batch["label"] if self._conditional else None

    def _picture(self, out_ND: jax.Array) -> jax.Array:
        return self._pixels.mean(out_ND).reshape(-1, *self._seen.shape)

    def _still(self, rows: int) -> tuple[jax.Array, ...]:
        """The noise that makes means of draws."""
        return tuple(jnp.zeros((1, rows, size)) for size in self._network.latents)

    def draw(
        self,
        weights: Weights,
        keys_B: jax.Array,
        label_B: jax.Array,
        temperature: jax.Array | float = 1.0,
        draw_pixels: jax.Array | float = 0.0,
    ) -> jax.Array:
        """Samples: latents from the prior, the noise of every layer times `temperature`; of each
        pixel the mean, or, where `draw_pixels` is above 0, a draw from the likelihood.
        """
        noise = _noise(keys_B, self._network.latents, jnp.int32(0), 1)
        code_BZ = jnp.concatenate([x[0] for x in noise], axis=1) * temperature
        out_BD = self._decoded(weights, code_BZ, self._label(label_B))
        log_scale = log_scale_of(weights.params, self._pixels)
        drawn = self._pixels.draw(_bits_key(keys_B), out_BD, log_scale)
        x_BD = jnp.where(jnp.asarray(draw_pixels) > 0, drawn, self._pixels.mean(out_BD))
        return x_BD.reshape(-1, *self._seen.shape)

    def encode(
        self, weights: Weights, x: jax.Array, key: jax.Array, label: jax.Array | None = None
    ) -> jax.Array:
        """Draws codes [B, Z] from the posteriors of the rows; row i by fold_in(key, i)."""
        keys_B = row_keys(key, jnp.arange(x.shape[0], dtype=jnp.int32))
        batch = {"x": x, "index": jnp.arange(x.shape[0], dtype=jnp.int32)}
        # Rows without a place in a split have no fixed bits of their own; new ones will do.
        binarize = "dynamic" if self._seen.binarize == "fixed" else self._seen.binarize
        x_BD = self._seen.judged(batch, _bits_key(keys_B), binarize)
        noise = _noise(keys_B, self._network.latents, jnp.int32(0), 1)
        return _code(self._pass(weights, x_BD, self._label(label), noise))

    def latents(self, key: jax.Array, number: int) -> jax.Array:
        """Draws codes [N, Z] from the prior."""
        return jax.random.normal(key, (number, sum(self._network.latents)))

    def decode(self, weights: Weights, z: jax.Array, label: jax.Array | None = None) -> jax.Array:
        """Returns the mean of p(x | z) of codes [N, Z], [N, ...] in [-1, 1]."""
        return self._picture(self._decoded(weights, z, self._label(label)))

    def features(self, weights: Weights, batch: Batch) -> jax.Array:
        """Returns the code of the posteriors' means, [B, Z]; bits are replaced by their
        probabilities, so that nothing is drawn.
        """
        x_BD = self._seen.gray(batch["x"])
        return _code(self._pass(weights, x_BD, self._of(batch), self._still(x_BD.shape[0])))

    def reconstruct(self, weights: Weights, batch: Batch, key: jax.Array) -> jax.Array:
        """Returns what the posterior's mean of each row decodes to, [B, ...] in [-1, 1]."""
        keys_B = row_keys(key, batch["index"])
        x_BD = self._seen.judged(batch, _bits_key(keys_B), self._seen.binarize)
        passed = self._pass(weights, x_BD, self._of(batch), self._still(x_BD.shape[0]))
        return self._picture(passed.out[0])

    def log_weights(
        self,
        weights: Weights,
        batch: Batch,
        key: jax.Array,
        first: jax.Array,
        *,
        k: int,
        binarize: str,
    ) -> jax.Array:
        """Returns log p(x, z) - log q(z | x) of k samples from number `first` on, [k, B]; a
        sample's value depends on its number alone, however many are made at once.
        """
        self._seen.check(binarize)
        keys_B = row_keys(key, batch["index"])
        x_BD = self._seen.judged(batch, _bits_key(keys_B), binarize)
        noise = _noise(keys_B, self._network.latents, first, k)
        passed = self._pass(weights, x_BD, self._of(batch), noise)
        log_scale = log_scale_of(weights.params, self._pixels)
        log_p_KB = self._pixels.log_p(passed.out, x_BD[None], log_scale)
        return log_p_KB - sum_of([_cost(x, closed=False) for x in passed.latents], log_p_KB)
