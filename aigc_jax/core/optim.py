"""Optimizers and schedules by name, with every number an input of the compiled step.

An optax transformation is built anew each time the step is traced, from the traced numbers of
`State.hyper`. So the learning rate, its warm-up, the weight decay and the betas are data: three
learning rates are one compilation, and `vmap` over `hyper` makes a sweep one program.
"""

import inspect
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from aigc_jax.core import tree
from aigc_jax.errors import UserError, nearest

Tree = Any
Hyper = dict[str, jax.Array]

HYPER = {
    "lr": 1e-3,  # the schedule's peak
    "warmup": 0.0,  # steps of linear warm-up
    "end_ratio": 0.1,  # the last learning rate as a share of the peak
    "decay_share": 0.2,  # wsd only: the share of the steps after warm-up that the decay takes
    "weight_decay": 0.0,
    "b1": 0.9,
    "b2": 0.999,
    "eps": 1e-8,
    "clip_norm": 0.0,  # largest global norm of the gradient; 0 leaves it alone
    "ema_decay": 0.999,
}

# What a rule may set: the types it takes, and how a message calls them.
RULE_KEYS: dict[str, tuple[Any, str]] = {
    "label": (str, "a word"),
    "lr": (int | float, "a number"),
    "decay": (int | float, "a number"),
    "freeze": (bool, "True or False"),
    "name": (str, "an optimizer's name"),
}


class Optimizer(NamedTuple):
    """A gradient transformation whose numbers come from `hyper` at every update.

    `init(params, hyper, part_of=None) -> opt` (`part_of`: the whole tree, where `params` is one of
    several parts with an optimizer state each; every rule must claim something of it) and
    `update(grads, opt, params, hyper, step) -> (params, opt, stats)`, where `stats` are float32
    scalars: "grad_norm" (before clipping, over the trained parameters), "lr", and for each rule
    "update/LABEL", the norm of the update over the norm of its parameters.
    """

    init: Callable[..., Tree]
    update: Callable[[Tree, Tree, Tree, Hyper, jax.Array], tuple[Tree, Tree, dict[str, jax.Array]]]
    ema: bool


def _constant(t: jax.Array, hyper: Hyper) -> jax.Array:
    return jnp.ones_like(t)


def _linear(t: jax.Array, hyper: Hyper) -> jax.Array:
    return 1.0 - (1.0 - hyper["end_ratio"]) * t


def _cosine(t: jax.Array, hyper: Hyper) -> jax.Array:
    return hyper["end_ratio"] + (1.0 - hyper["end_ratio"]) * 0.5 * (1.0 + jnp.cos(jnp.pi * t))


def _wsd(t: jax.Array, hyper: Hyper) -> jax.Array:
    share = jnp.maximum(hyper["decay_share"], 1e-9)
    return _linear(jnp.clip((t - (1.0 - share)) / share, 0.0, 1.0), hyper)


# Each maps progress t in [0, 1] after the warm-up to a share of the peak.
SCHEDULES = {"constant": _constant, "linear": _linear, "cosine": _cosine, "wsd": _wsd}


def learning_rate(schedule: str, steps: int, step: jax.Array, hyper: Hyper) -> jax.Array:
    """Returns the learning rate of one step, a float32 scalar.

    Args:
      schedule: "constant", "linear", "cosine", "wsd" (warm-up, stable, decay; Hu et al. 2024,
        arXiv:2404.06395) or "rsqrt" (Vaswani et al. 2017, arXiv:1706.03762, eq. 3, scaled so that
        the peak is `hyper["lr"]`).
      steps: the step at which a decaying schedule reaches its end.
      step: int32 scalar, counted from 0.
      hyper: reads lr, warmup, end_ratio, decay_share.
    """
    s, warmup = step.astype(jnp.float32), hyper["warmup"]
    warm = jnp.minimum(1.0, (s + 1.0) / (warmup + 1.0))
    if schedule == "rsqrt":
        ramp = jnp.maximum(warmup, 1.0)
        return hyper["lr"] * warm * jnp.sqrt(ramp / jnp.maximum(s, ramp))
    progress = jnp.clip((s - warmup) / jnp.maximum(steps - warmup, 1.0), 0.0, 1.0)
    return hyper["lr"] * warm * SCHEDULES[schedule](progress, hyper)


def _factory(name: str) -> Callable[..., optax.GradientTransformation]:
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


def _transformation(
    name: str, args: dict[str, Any], lr: jax.Array, decay: float, hyper: Hyper
) -> optax.GradientTransformation:
    """Builds one optax transformation from traced numbers.

    An optimizer of optax without decoupled weight decay gets the classic one, added to the
    gradient.
    """
    factory = _factory(name)
    known = inspect.signature(factory).parameters
    numbers = {key: hyper[key] for key in ("b1", "b2", "eps") if key in known}
    if "weight_decay" in known:
        numbers["weight_decay"] = hyper["weight_decay"] * decay
    try:
        built = factory(learning_rate=lr, **numbers, **args)
    except TypeError as error:
        raise UserError(f"optim.args: optax's {name} says: {error}.") from error
    if "weight_decay" in known or decay == 0.0:
        return built
    return optax.chain(optax.add_decayed_weights(hyper["weight_decay"] * decay), built)


def _probe(name: str, args: dict[str, Any]) -> None:
    """Traces one update of a small matrix: a few milliseconds, and no mistake waits until later."""

    def once(w: jax.Array) -> Tree:
        hyper = {key: jnp.float32(value) for key, value in HYPER.items()}
        built = _transformation(name, args, hyper["lr"], 1.0, hyper)
        return built.update({"w": w}, built.init({"w": w}), {"w": w})

    _factory(name)
    try:
        jax.eval_shape(once, jax.ShapeDtypeStruct((2, 2), jnp.float32))
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"optim.name: '{name}' needs more than gradients and parameters: {reason}"
        ) from error


def _checked_rules(rules: tuple[Any, ...]) -> list[tuple[str, dict[str, Any]]]:
    checked = []
    for i, rule in enumerate(rules):
        if not (isinstance(rule, tuple) and len(rule) == 2 and isinstance(rule[1], dict)):
            raise UserError(f"optim.rules: expected ('regex', {{settings}}) pairs, got {rule!r}.")
        for key, value in rule[1].items():
            if key not in RULE_KEYS:
                raise UserError(
                    f"optim.rules: '{key}' is no setting of a rule.{nearest(key, RULE_KEYS)}"
                    f" Known: {', '.join(sorted(RULE_KEYS))}."
                )
            kind, word = RULE_KEYS[key]
            if not isinstance(value, kind) or (isinstance(value, bool) and key != "freeze"):
                raise UserError(f"optim.rules: '{key}' is {value!r}; expected {word}.")
        checked.append((rule[0], {"label": f"rule_{i}", **rule[1]}))
    return checked


def make(
    steps: int,
    *,
    name: str = "adamw",
    schedule: Literal["constant", "linear", "cosine", "wsd", "rsqrt"] = "cosine",
    decay_steps: int | None = None,
    ema: bool = False,
    args: tuple = (),
    rules: tuple = (
        ("(bias|scale)$", {"label": "vectors", "decay": 0.0}),
        (".*", {"label": "matrices"}),
    ),
) -> Optimizer:
    """Makes an optimizer.

    Args:
      steps: the run's length, in steps; where a decaying schedule ends.
      name: any optimizer of `optax` or `optax.contrib` ("adamw", "sgd", "lion", "muon", ...).
      schedule: see `learning_rate`.
      decay_steps: ends the schedule at another step than the run's last.
      ema: keep an exponential moving average of the parameters in `State.ema`; evaluators use it.
      args: more arguments for optax's function, constants of the program:
        (("nesterov", True), ...).
      rules: (regular expression, settings) pairs; the first whose expression is found in a
        parameter's path claims it, and every parameter must be claimed. Settings: "label" (its name
        in the metrics), "lr" and "decay" (multipliers), "freeze" (True: never changes), "name"
        (another optimizer, as Muon for hidden matrices: Jordan et al. 2024).

    Raises:
      UserError: an unknown name, schedule or setting; at init, a parameter that no rule claims, or
        a rule with "freeze", "lr" or "name" that claims none (it would do nothing, silently).
    """
    if schedule != "rsqrt" and schedule not in SCHEDULES:
        known = [*SCHEDULES, "rsqrt"]
        raise UserError(
            f"optim.schedule: no schedule '{schedule}'.{nearest(schedule, known)}"
            f" Known: {', '.join(sorted(known))}."
        )
    groups = _checked_rules(rules)
    if not all(isinstance(pair, tuple) and len(pair) == 2 for pair in args):
        raise UserError(f"optim.args: expected ('argument', value) pairs, got {args!r}.")
    for other in {name} | {group["name"] for _, group in groups if "name" in group}:
        _probe(other, dict(args) if other == name else {})
    horizon = decay_steps or steps

    def transformation(params: Tree, hyper: Hyper, lr: jax.Array) -> optax.GradientTransformation:
        labels = tree.claim(params, [pattern for pattern, _ in groups], "optim.rules")
        used = set(jax.tree.leaves(labels))
        transforms = {
            i: optax.set_to_zero()
            if groups[i][1].get("freeze")
            else _transformation(
                groups[i][1].get("name", name),
                dict(args) if groups[i][1].get("name", name) == name else {},
                lr * groups[i][1].get("lr", 1.0),
                groups[i][1].get("decay", 1.0),
                hyper,
            )
            for i in sorted(used)
        }
        return optax.partition(transforms, labels)

    def init(params: Tree, hyper: Hyper, *, part_of: Tree | None = None) -> Tree:
        whole = params if part_of is None else part_of
        claims = tree.claim(whole, [pattern for pattern, _ in groups], "optim.rules")
        used = set(jax.tree.leaves(claims))
        for i, (pattern, group) in enumerate(groups):
            if i not in used and {"freeze", "lr", "name"} & group.keys():
                raise UserError(f"optim.rules: '{pattern}' claims no parameter; is it misspelt?")
        return transformation(params, hyper, hyper["lr"]).init(params)

    def update(
        grads: Tree, opt: Tree, params: Tree, hyper: Hyper, step: jax.Array
    ) -> tuple[Tree, Tree, dict[str, jax.Array]]:
        lr = learning_rate(schedule, horizon, step, hyper)
        claims = tree.claim(params, [pattern for pattern, _ in groups], "optim.rules")
        # A frozen parameter's gradient must not take part in the norm: XLA then drops its
        # backward pass altogether.
        grads = jax.tree.map(
            lambda g, i: jnp.zeros_like(g) if groups[i][1].get("freeze") else g, grads, claims
        )
        norm = optax.tree.norm(grads)
        clip = hyper["clip_norm"]
        scale = jnp.where((clip > 0) & (norm > clip), clip / jnp.maximum(norm, 1e-30), 1.0)
        grads = jax.tree.map(lambda g: g * scale.astype(g.dtype), grads)
        updates, opt = transformation(params, hyper, lr).update(grads, opt, params)
        stats = {"grad_norm": norm, "lr": lr}
        labels: dict[str, set[int]] = {}
        for i in sorted(set(jax.tree.leaves(claims))):
            if not groups[i][1].get("freeze"):
                labels.setdefault(groups[i][1]["label"], set()).add(i)
        for label, chosen in labels.items():
            stats[f"update/{label}"] = _ratio(updates, params, claims, chosen)
        params = optax.apply_updates(params, updates)
        return params, opt, {k: v.astype(jnp.float32) for k, v in stats.items()}

    return Optimizer(init, update, ema)


def _ratio(updates: Tree, params: Tree, claims: Tree, rules: set[int]) -> jax.Array:
    """The norm of the updates over the norm of the parameters, of what some rules claim."""
    chosen = [
        (u, p)
        for u, p, i in zip(*map(jax.tree.leaves, (updates, params, claims)), strict=True)
        if i in rules
    ]
    update, size = (optax.tree.norm([pair[k] for pair in chosen]) for k in (0, 1))
    return update / jnp.maximum(size, 1e-30)
