"""State and Task: what a run carries along, and what a family of models learns.

A task is four pure functions. Most write a loss and let `supervised` make `init` and `step` of it;
a family with several optimizers writes its own. The loop runs both kinds and knows no family.
"""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from aigc_jax.core import averages, optimizers, replicas, tree
from aigc_jax.core.optim import Hyper, Optimizer
from aigc_jax.errors import UserError

Tree = Any
Batch = dict[str, jax.Array]
# A metric is (sum, weight), both float32 scalars, so that any split of a data set adds up to one
# answer. The mean is sum / weight.
Metrics = dict[str, tuple[jax.Array, jax.Array]]


class State(flax.struct.PyTreeNode):
    """Everything that a run needs to go on; the checkpoint, whole.

    Attributes:
      step: int32 [], the number of steps taken.
      key: the run's root key. A step's key is `fold_in(key, step)`, never stored.
      params: one tree per trained network, {"model": ...}.
      opt: one tree per optimizer.
      vars: what no gradient trains: batch statistics, codebooks, frozen reference networks.
        vars["ema"], where there is one, has averaged copies of some of them: a network that is
        averaged needs the batch statistics of the average.
      ema: averaged copies of some of `params`, by network; empty where nothing is averaged.
      hyper: float32 [] each: the numbers that the compiled step reads.
    """

    step: jax.Array
    key: jax.Array
    params: dict[str, Tree]
    opt: dict[str, Tree]
    vars: dict[str, Tree]
    ema: dict[str, Tree]
    hyper: Hyper


class Weights(NamedTuple):
    """What evaluation and sampling read: the averaged parameters where a run keeps them."""

    params: dict[str, Tree]
    vars: dict[str, Tree]


def _identity(means: dict[str, float]) -> dict[str, float]:
    return means


class Task(NamedTuple):
    """What one family of models learns. Pure functions; the loop compiles them.

    Attributes:
      init: (key, hyper) -> State.
      step: (State, Batch) -> (State, Metrics). Advances `step` by one.
      eval: (Weights, Batch, key) -> Metrics; deterministic given the key, which is one for a whole
        evaluation: what is random in a row follows from `row_keys`, so that the sums don't depend
        on how a split is cut into batches.
      sample: (Weights, key, **knobs) -> arrays, or None.
      finish: means of metrics -> the numbers a person reads (adds perplexity = exp(loss), ...).
      functions: more of the family's pure functions, by names that families share, for evaluators
        and commands that ask for them: "encode", "decode", "features", "log_weights", ...
    """

    init: Callable[[jax.Array, Hyper], State]
    step: Callable[[State, Batch], tuple[State, Metrics]]
    eval: Callable[[Weights, Batch, jax.Array], Metrics]
    sample: Callable[..., Any] | None = None
    finish: Callable[[dict[str, float]], dict[str, float]] = _identity
    functions: Mapping[str, Callable[..., Any]] = MappingProxyType({})


def weights(state: State) -> Weights:
    """Returns what a state is judged by: the moving averages where it keeps them, and the averages
    that a schedule-free optimizer makes.
    """
    params = dict(state.params)
    for opt in state.opt.values():
        params |= optimizers.averaged(opt, params, state.hyper)
    return Weights({**params, **state.ema}, {**state.vars, **state.vars.get("ema", {})})


def row_keys(key: jax.Array, index_B: jax.Array) -> jax.Array:
    """Returns a key for each row, keys [B], from its place in the split, int32 [B]."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, index_B)


def single(value: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Makes a metric of one scalar, with weight one."""
    return jnp.asarray(value, jnp.float32), jnp.ones((), jnp.float32)


# loss(params, vars, batch, key, hyper) -> (metrics with "loss", vars)
Loss = Callable[[Tree, Tree, Batch, jax.Array, Hyper], tuple[Metrics, Tree]]
# drawn_loss(params, vars, batch, key) -> (sum, weight), of labels drawn from the prediction
DrawnLoss = Callable[[Tree, Tree, Batch, jax.Array], tuple[jax.Array, jax.Array]]
_LABELS = 1 << 20  # what a step's key is folded with, beyond any micro-batch


def supervised(
    init_variables: Callable[[jax.Array], tuple[dict[str, Tree], dict[str, Tree]]],
    loss: Loss,
    optimizer: Optimizer,
    *,
    accumulate: int = 1,
    drawn_loss: DrawnLoss | None = None,
) -> tuple[Callable[[jax.Array, Hyper], State], Callable[[State, Batch], tuple[State, Metrics]]]:
    """Makes `init` and `step` for one loss and one optimizer.

    The gradient is that of sum / weight of the metric "loss" over the whole batch. With
    accumulation, sums and weights are added over the micro-batches and divided once, so k
    micro-batches give the gradient of the whole batch however unevenly it is padded.

    Args:
      init_variables: key -> (params, vars).
      loss: (params, vars, batch, key, hyper) -> (metrics, vars). `metrics["loss"]` is what is
        minimized; its sum must not be divided by anything that depends on the batch.
      optimizer: made by `core.optim.make`.
      accumulate: micro-batches a step; divides the batch.
      drawn_loss: (params, vars, batch, key) -> (sum, weight): the negative log-likelihood of labels
        drawn from the model's own prediction, through which no gradient passes. With it, Sophia can
        estimate the curvature, by Gauss, Newton and Bartlett (Liu et al. 2023, arXiv:2305.14342,
        algorithm 2), on the first micro-batch.

    Raises:
      UserError: `accumulate` is below 1; at trace time, a batch that it does not divide.
    """
    if accumulate < 1:
        raise UserError(f"task.accumulate={accumulate}: expected 1 or more.")

    def init(key: jax.Array, hyper: Hyper) -> State:
        params, variables = init_variables(jax.random.fold_in(key, 0))
        return State(
            step=jnp.zeros((), jnp.int32),
            key=key,
            params=params,
            opt={"main": optimizer.init(params, hyper)},
            vars=variables,
            ema=averages.begin(params) if optimizer.ema else {},
            hyper=hyper,
        )

    def sum_of_loss(
        params: Tree, variables: Tree, batch: Batch, key: jax.Array, hyper: Hyper
    ) -> tuple[jax.Array, tuple[Metrics, Tree]]:
        metrics, variables = loss(params, variables, batch, key, hyper)
        return metrics["loss"][0], (metrics, variables)

    gradient = jax.grad(sum_of_loss, has_aux=True)

    def gradients(state: State, batch: Batch, key: jax.Array) -> tuple[Tree, Metrics, Tree]:
        if accumulate == 1:
            grads, (metrics, variables) = gradient(
                state.params, state.vars, batch, key, state.hyper
            )
            return grads, metrics, variables

        def micro(carry: tuple[Tree, Tree], item: tuple[jax.Array, Batch]) -> Any:
            total, variables = carry
            grads, (metrics, variables) = gradient(
                state.params, variables, item[1], jax.random.fold_in(key, item[0]), state.hyper
            )
            return (jax.tree.map(jnp.add, total, tree.widened(grads)), variables), metrics

        zeros = jax.tree.map(jnp.zeros_like, tree.widened(state.params))
        (grads, variables), metrics = jax.lax.scan(
            micro, (zeros, state.vars), (jnp.arange(accumulate), _split(batch, accumulate))
        )
        return grads, jax.tree.map(lambda m: m.sum(0), metrics), variables

    def curvature(state: State, batch: Batch, key: jax.Array) -> Tree:
        assert drawn_loss is not None
        first = jax.tree.map(lambda x: x[0], _split(batch, accumulate))
        # B times the square of the mean gradient is the square of the summed one, over B.
        grads, weight = jax.grad(drawn_loss, has_aux=True)(
            state.params, state.vars, first, jax.random.fold_in(key, _LABELS)
        )
        grads, weight = replicas.total((tree.widened(grads), weight))
        return jax.tree.map(lambda g: jnp.square(g) / jnp.maximum(weight, 1e-30), grads)

    def step(state: State, batch: Batch) -> tuple[State, Metrics]:
        key = replicas.own(jax.random.fold_in(state.key, state.step))
        grads, metrics, variables = gradients(state, batch, key)
        grads, metrics = replicas.total((tree.widened(grads), metrics))
        variables = replicas.mean(variables)
        weight = jnp.maximum(metrics["loss"][1], 1e-30)
        grads = jax.tree.map(lambda g: g / weight, grads)
        params, opt, stats = optimizer.update(
            grads, state.opt["main"], state.params, state.hyper, state.step,
            curvature=partial(curvature, state, batch, key) if drawn_loss else None,
        )  # fmt: skip
        ema = state.ema and averages.move(state.hyper["ema_decay"], state.ema, params)
        new = state.replace(
            step=state.step + 1, params=params, opt={"main": opt}, vars=variables, ema=ema
        )
        return new, {**metrics, **{name: single(value) for name, value in stats.items()}}

    return init, step


def _split(batch: Batch, k: int) -> Batch:
    """[B, ...] -> [k, B/k, ...], each micro-batch taking every k-th row.

    Strided, so that with the rows sharded over devices each micro-batch stays where it is.
    """

    def one(x: jax.Array) -> jax.Array:
        if x.shape[0] % k:
            raise UserError(
                f"task.accumulate={k} does not divide the batch of {x.shape[0]};"
                f" choose run.batch_size as a multiple of {k}."
            )
        return x.reshape(x.shape[0] // k, k, *x.shape[1:]).swapaxes(0, 1)

    return jax.tree.map(one, batch)
