"""The VQ-VAE: pictures as grids of codes out of a learned codebook.

Letters in names: B rows, T codes of a row, N = B*T, D width of a code, K codes.
"""

import math
from typing import Any, Literal

import jax
import jax.numpy as jnp

from aigc_jax.core.config import maker
from aigc_jax.core.optim import Hyper, Optimizer
from aigc_jax.core.task import Batch, Metrics, Task, Weights, row_keys, single, supervised
from aigc_jax.errors import UserError
from aigc_jax.losses.observation import OF_LEVELS, observation
from aigc_jax.models import vq
from aigc_jax.tasks.observed import Observed, first_log_scale, log_scale_of, masked

HYPER = {
    "commitment": 0.25,  # weight of the distance from the encoder's vectors to their codes
    "codebook_decay": 0.99,  # of the moving averages that the codes are
    "restart_below": 0.03,  # a code used less than this share of the average is replaced; 0: none
}


def make(
    spec: Any,
    optimizer: Optimizer,
    model: dict[str, Any],
    *,
    codes: int = 256,
    likelihood: Literal[
        "bernoulli", "discretized_logistic", "gaussian", "logistic_mixture"
    ] = "gaussian",
    scale: Literal["fixed", "shared", "pixel"] = "shared",
    sigma: float = 0.1,
    mixtures: int = 10,
    binarize: Literal["dynamic", "fixed", "none"] = "none",
    accumulate: int = 1,
) -> Task:
    """Makes the task (van den Oord et al. 2017, arXiv:1711.00937).

    The codebook is in `State.vars["codebook"]`: no gradient reaches it, see `models.vq.moved`. Its
    prior is another run, of the task "lm" on the data "codes".

    Batches: see `tasks.vae.make`. Metrics, in nats per example: "loss", in training what is
    minimized, the commitment included; "nll_bound" (training) the bound -log p(x | codes) + T ln K,
    which is the "loss" of an evaluation, that of a uniform prior, to be lowered by a trained one;
    "reconstruction", -log p(x | codes); "kl", T ln K; "commitment" (training); "code_perplexity",
    how many codes are in use, 1 to K.

    Functions: "codes" (weights, batch) -> int32 [B, T], row by row of the grid; "decode_codes"
    (weights, codes [B, T]) -> x in [-1, 1]; "reconstruct" (weights, batch, key) -> x; "features"
    (weights, batch) -> the encoder's vectors, [B, T * D].

    Args:
      spec: the data's spec; reads the fact `shape`.
      optimizer: from `core.optim.make`.
      model: `name` of a module in `models/` and its settings. The module takes `shape` and
        `planes`, has `code_width`, and is a network as `models.vq_conv.VQNetwork`.
      codes: K.
      likelihood, scale, sigma, mixtures, binarize: see `tasks.vae.make`.
      accumulate: micro-batches a step.

    Raises:
      UserError: a setting that does not fit the others or the data.
    """
    if codes < 2:
        raise UserError(f"task.codes={codes}: expected 2 or more.")
    seen = Observed(tuple(spec.facts["shape"]), likelihood, binarize)
    seen.check(binarize)
    pixels = observation(likelihood, scale, sigma, channels=seen.shape[-1], mixtures=mixtures)
    settings = {key: value for key, value in model.items() if key != "name"}
    network = maker("models", model["name"])(shape=seen.shape, planes=pixels.planes, **settings)
    network.check()

    def apply(params: Any, method: str, *args: Any) -> Any:
        return network.apply({"params": params["model"]}, *args, method=method)

    def log_p(params: Any, z_ND: jax.Array, x_BD: jax.Array) -> jax.Array:
        return pixels.log_p(apply(params, "decode", z_ND), x_BD, log_scale_of(params, pixels))

    def scores(log_p_B: jax.Array, count: int, mask: jax.Array) -> Metrics:
        cost_B = jnp.full_like(log_p_B, count * math.log(codes))
        return {
            "nll_bound": (((cost_B - log_p_B) * mask).sum(), mask.sum()),
            "reconstruction": (-(log_p_B * mask).sum(), mask.sum()),
            "kl": ((cost_B * mask).sum(), mask.sum()),
        }

    def loss(
        params: Any, variables: Any, batch: Batch, key: jax.Array, hyper: Hyper
    ) -> tuple[Metrics, Any]:
        x_BD = seen.training(batch, jax.random.fold_in(key, 0))
        book, mask = vq.Codebook(**variables["codebook"]), masked(batch)
        z_ND = apply(params, "encode", x_BD)
        codes_N = vq.nearest(z_ND, book.vectors_KD)
        q_ND = book.vectors_KD[codes_N]
        log_p_B = log_p(params, vq.straight_through(z_ND, q_ND), x_BD)
        gap_N = jnp.square(z_ND - jax.lax.stop_gradient(q_ND)).sum(-1)
        gap_B = gap_N.reshape(x_BD.shape[0], -1).sum(-1)
        count = z_ND.shape[0] // x_BD.shape[0]
        minimized_B = hyper["commitment"] * gap_B - log_p_B
        weight_N, still_ND = jnp.repeat(mask, count), jax.lax.stop_gradient(z_ND)
        book = vq.moved(book, still_ND, codes_N, weight_N, hyper["codebook_decay"])
        metrics = {
            **scores(log_p_B, count, mask),
            "loss": ((minimized_B * mask).sum(), mask.sum()),
            "commitment": ((gap_B * mask).sum(), mask.sum()),
            "code_perplexity": single(vq.perplexity(book.counts_K)),
        }
        restart = jax.random.fold_in(key, 1)
        book = vq.restarted(book, still_ND, weight_N, restart, hyper["restart_below"])
        return metrics, {**variables, "codebook": book._asdict()}

    def init_variables(key: jax.Array) -> tuple[dict[str, Any], dict[str, Any]]:
        found = network.init(key, jnp.zeros((1, seen.size)))["params"]
        book = vq.init(jax.random.fold_in(key, 1), codes, network.code_width)
        return {"model": found, **first_log_scale(pixels)}, {"codebook": book._asdict()}

    init, step = supervised(init_variables, loss, optimizer, accumulate=accumulate)

    def evaluate(weights: Weights, batch: Batch, key: jax.Array) -> Metrics:
        x_BD, mask = seen.judged(batch, row_keys(key, batch["index"]), binarize), masked(batch)
        book = vq.Codebook(**weights.vars["codebook"])
        z_ND = apply(weights.params, "encode", x_BD)
        codes_N = vq.nearest(z_ND, book.vectors_KD)
        log_p_B = log_p(weights.params, book.vectors_KD[codes_N], x_BD)
        metrics = scores(log_p_B, z_ND.shape[0] // x_BD.shape[0], mask)
        metrics["loss"] = metrics.pop("nll_bound")
        used = vq.perplexity(book.counts_K)
        return {**metrics, "code_perplexity": (used * mask.sum(), mask.sum())}

    def finish(means: dict[str, float]) -> dict[str, float]:
        nats = means["nll_bound"] if "nll_bound" in means else means.get("loss")
        if likelihood not in OF_LEVELS or nats is None:
            return means
        return {**means, "bits_per_dim": nats / math.log(2.0) / seen.size}

    functions = _functions(apply, pixels, seen)
    return Task(init, step, evaluate, None, finish, functions)


def _functions(apply: Any, pixels: Any, seen: Observed) -> dict[str, Any]:
    """What evaluators and commands may ask of a model; see `make`."""

    def vectors(weights: Weights, x: jax.Array) -> jax.Array:
        return apply(weights.params, "encode", seen.gray(x))

    def picture(weights: Weights, z_ND: jax.Array) -> jax.Array:
        out = apply(weights.params, "decode", z_ND)
        return pixels.mean(out).reshape(-1, *seen.shape)

    def codes_of(weights: Weights, batch: Batch) -> jax.Array:
        vectors_KD = weights.vars["codebook"]["vectors_KD"]
        return vq.nearest(vectors(weights, batch["x"]), vectors_KD).reshape(batch["x"].shape[0], -1)

    def decode_codes(weights: Weights, codes: jax.Array) -> jax.Array:
        vectors_KD = weights.vars["codebook"]["vectors_KD"]
        # What is no code (a prior also knows how a row begins) becomes the last one.
        return picture(weights, vectors_KD[jnp.clip(codes.reshape(-1), 0, len(vectors_KD) - 1)])

    def reconstruct(weights: Weights, batch: Batch, key: jax.Array) -> jax.Array:
        x_BD = seen.judged(batch, row_keys(key, batch["index"]), seen.binarize)
        z_ND = apply(weights.params, "encode", x_BD)
        vectors_KD = weights.vars["codebook"]["vectors_KD"]
        return picture(weights, vectors_KD[vq.nearest(z_ND, vectors_KD)])

    def features(weights: Weights, batch: Batch) -> jax.Array:
        return vectors(weights, batch["x"]).reshape(batch["x"].shape[0], -1)

    return {
        "codes": codes_of,
        "decode_codes": decode_codes,
        "reconstruct": reconstruct,
        "features": features,
        "check_bits": seen.check,
    }
