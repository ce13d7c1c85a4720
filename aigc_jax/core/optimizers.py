"""One optax transformation by its name, from traced numbers; and what some of them need besides.

Sophia asks for an estimate of the Hessian's diagonal, Muon for the axes of a matrix in a stack of
them, and the schedule-free ones are judged at other parameters than those they take gradients at.
"""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from aigc_jax.errors import UserError, nearest

Tree = Any
Hyper = dict[str, jax.Array]

# Arguments of optax's functions, by the number that each is.
_NUMBERS = {"b1": "b1", "b2": "b2", "eps": "eps"}
_NUMBERS_OF = {
    "muon": {"eps": "eps", "beta": "momentum", "adam_b1": "b1", "adam_b2": "b2"},
    "sophia": {**_NUMBERS, "gamma": "gamma"},
}
# Their steps are as large for a gradient of any size, entry by entry.
ENTRYWISE = {
    "adabelief", "adam", "adamax", "adamaxw", "adamw", "ademamix", "adopt", "amsgrad", "lion",
    "nadam", "nadamw", "radam", "rmsprop", "schedule_free_adamw", "sign_sgd", "yogi",
}  # fmt: skip
AVERAGING = {"schedule_free_adamw", "schedule_free_sgd"}
CURVED = {"sophia"}
CURVATURE_EVERY = 10  # steps, unless `optim.args` says otherwise


def factory(name: str) -> Callable[..., optax.GradientTransformation]:
    """Returns optax's function of this name; UserError where there is none."""
    known = {
        key: value
        for room in (optax.contrib, optax)
        for key, value in vars(room).items()
        if inspect.isfunction(value)
        and "learning_rate" in inspect.signature(value).parameters
        and not key.startswith(("scale_by_", "_"))
    }
    if name in known:
        return known[name]  # type: ignore[no-any-return]
    raise UserError(
        f"optim.name: no optimizer '{name}' in optax or optax.contrib.{nearest(name, known)}"
        f" Known: {', '.join(sorted(known))}."
    )


def decoupled(name: str) -> bool:
    """Whether an optimizer has a weight decay of its own, apart from the gradient."""
    return "weight_decay" in inspect.signature(factory(name)).parameters


def transformation(
    name: str, args: dict[str, Any], lr: jax.Array, decay: float, hyper: Hyper
) -> optax.GradientTransformation:
    """Builds one optax transformation from traced numbers.

    An optimizer of optax without decoupled weight decay gets the classic one, added to the
    gradient.

    Args:
      name: in optax. args: more arguments of its function, constants of the program.
      lr: float32 scalar. decay: multiplies `hyper["weight_decay"]`. hyper: see `core.optim`.
    """
    known = inspect.signature(factory(name)).parameters
    read = _NUMBERS_OF.get(name, _NUMBERS)
    for argument in ("learning_rate", "weight_decay", *read):
        if argument in args and argument in known:
            number = "lr" if argument == "learning_rate" else read.get(argument, argument)
            raise UserError(f"optim.args: '{argument}' of {name} is a number; set hyper.{number}.")
    numbers: dict[str, Any] = {
        argument: hyper[number] for argument, number in read.items() if argument in known
    }
    shrink = hyper["weight_decay"] * decay
    numbers |= {key: shrink for key in ("weight_decay", "adam_weight_decay") if key in known}
    if name == "muon" and "muon_weight_dimension_numbers" not in args:
        numbers["muon_weight_dimension_numbers"] = _matrices
    if name == "sophia":
        numbers["hessian_diagonal_fn"] = _HANDED_IN
        args = {"update_interval": CURVATURE_EVERY, **args}
    try:
        built = factory(name)(learning_rate=lr, **numbers, **args)
    except TypeError as error:
        raise UserError(f"optim.args: optax's {name} says: {error}.") from error
    if decoupled(name) or decay == 0.0:
        return built
    return optax.chain(optax.add_decayed_weights(shrink), built)


def _matrices(params: Tree) -> Tree:
    """Which parameters Muon orthogonalizes: matrices, and each of a stack of scanned layers."""
    axes = optax.contrib.MuonDimensionNumbers(reduction_axis=-2, output_axis=-1)
    return jax.tree.map(lambda p: axes if p.ndim in (2, 3) else None, params)


def _pick(
    updates: Tree, state: Tree, params: Tree | None = None, *, curvature: Tree = None, **_: Any
) -> tuple[Tree, Tree]:
    """Takes from the whole diagonal what belongs to the group of parameters at hand."""
    if curvature is None:
        raise ValueError("an estimate of the curvature")
    return _of_group(lambda u, h: h, updates, curvature), state


# In the place of optax's own estimate, whose key would be the same in every run.
_HANDED_IN = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), _pick)


def _of_group(function: Callable[..., Any], group: Tree, *rest: Tree) -> Tree:
    """`jax.tree.map` over trees of which `group` has only some leaves; the others stay masked."""
    return jax.tree.map(
        lambda x, *others: x if _masked(x) else function(x, *others), group, *rest, is_leaf=_masked
    )


def _masked(x: Any) -> bool:
    return isinstance(x, optax.MaskedNode)


def _states(opt: Tree, kind: type) -> list[Any]:
    is_one = lambda x: isinstance(x, kind)  # noqa: E731
    return [x for x in jax.tree.leaves(opt, is_leaf=is_one) if is_one(x)]


def curvature_if_due(opt: Tree, estimate: Callable[[], Tree], params: Tree, every: int) -> Tree:
    """Returns the estimate at the steps at which Sophia takes one in, zeros at the others.

    Once for all groups of parameters. Under `vmap` both are computed at every step.
    """
    (state, *_) = _states(opt, optax.contrib.SophiaState)
    zeros = lambda: jax.tree.map(jnp.zeros_like, params)  # noqa: E731
    return jax.lax.cond(state.count % every == 0, estimate, zeros)


def averaged(opt: Tree, params: Tree, hyper: Hyper) -> Tree:
    """Returns the parameters that an optimizer is judged by.

    They are `params` but for schedule-free optimizers (Defazio et al. 2024, arXiv:2405.15682, eq.
    3 to 5): these take gradients at y = (1 - b1) z + b1 x, keep z, and x, an average of all z, is
    the answer.

    Args:
      opt: of one `core.optim.Optimizer`. params: what it updates, y. hyper: reads b1.
    """
    for state in _states(opt, optax.contrib.ScheduleFreeState):
        params = _answer(state.z, {name: params[name] for name in state.z}, hyper["b1"])
    return params


@jax.jit
def _answer(z: Tree, params: Tree, b1: jax.Array) -> Tree:
    """Works x out of y, z and b1; where z is masked it is y."""
    return jax.tree.map(
        lambda z, y: y if _masked(z) else ((y - (1.0 - b1) * z) / b1).astype(y.dtype),
        z, params, is_leaf=_masked,
    )  # fmt: skip


def restarted(opt: Tree, params: Tree) -> Tree:
    """Returns an optimizer's fresh state after the parameters were replaced.

    What a schedule-free optimizer keeps begins where its parameters begin.
    """
    is_one = lambda x: isinstance(x, optax.contrib.ScheduleFreeState)  # noqa: E731

    def one(state: Any) -> Any:
        if not is_one(state):
            return state
        return state._replace(z=_of_group(lambda z, p: jnp.array(p, z.dtype), state.z, params))

    return jax.tree.map(one, opt, is_leaf=is_one)
