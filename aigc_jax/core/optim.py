"""Optimizers and schedules by name, with every number an input of the compiled step.

An optax transformation is built anew each time the step is traced, from the traced numbers of
`State.hyper`. So the learning rate, its warm-up, the weight decay and the betas are data: three
learning rates are one compilation, and `vmap` over `hyper` makes a sweep one program.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from aigc_jax.core import optimizers, tree
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
# Besides, by the name of an optimizer that a config uses; a literal, as HYPER is.
HYPER_OF = {
    "muon": {"momentum": 0.95},
    "sophia": {"gamma": 0.05},  # Liu et al. 2023, section 3.1, for its Gauss-Newton estimate
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

    Attributes:
      init: (params, hyper, part_of=None) -> opt, in float32 for narrower parameters too, since a
        moment in bfloat16 stands still. `part_of`: the whole tree, where `params` is one of several
        parts with an optimizer state each; every rule must claim something of it.
      update: (grads, opt, params, hyper, step, curvature=None) -> (params, opt, stats), where
        `stats` are float32 scalars: "grad_norm" (before clipping, over the trained parameters),
        "lr", and for each rule "update/LABEL", the norm of the update over the norm of its
        parameters. `curvature()` estimates the diagonal of the loss's Hessian, a tree as `params`;
        Sophia alone asks for it, and raises UserError where it is None.
      ema: whether the parameters are to be averaged.
      scaled: rates -> Optimizer, the same but for the learning rates, multiplied by what the first
        regular expression found in a parameter's path says; see `models.mup`. Decoupled weight
        decay takes as much off a parameter as before. Raises UserError for an optimizer whose step
        depends on the gradient's size: other multipliers hold for it.
      burn_in: names in `hyper` that move in the first steps; see `core.burn_in`.
    """

    init: Callable[..., Tree]
    update: Callable[..., tuple[Tree, Tree, dict[str, jax.Array]]]
    ema: bool
    scaled: "Callable[[Mapping[str, float]], Optimizer]"
    burn_in: tuple[str, ...] = ()


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


def _probe(name: str, args: dict[str, Any]) -> None:
    """Traces one update of a small matrix: a few milliseconds, and no mistake waits until later."""

    def once(w: jax.Array) -> Tree:
        known = {**HYPER, **HYPER_OF.get(name, {})}
        hyper = {key: jnp.float32(value) for key, value in known.items()}
        built = optimizers.transformation(name, args, hyper["lr"], 1.0, hyper)
        more = {"curvature": {"w": w}} if name in optimizers.CURVED else {}
        whole = optax.with_extra_args_support(built)
        return whole.update({"w": w}, built.init({"w": w}), {"w": w}, **more)

    optimizers.factory(name)
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
    burn_in: tuple[str, ...] = (),
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
      burn_in: names of numbers in `hyper`, of the optimizer or of the task, that go from
        `hyper.NAME_first` to `hyper.NAME` along half a cosine in the first `hyper.burn_in` steps;
        see `core.burn_in`. Naming them brings these settings into the config.
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
    if not all(isinstance(pair, tuple) and len(pair) == 2 for pair in args):
        raise UserError(f"optim.args: expected ('argument', value) pairs, got {args!r}.")
    plan = Plan(name, schedule, decay_steps or steps, dict(args), tuple(_checked_rules(rules)), ())
    for other in plan.names():
        _probe(other, plan.args_of(other))
        if other in optimizers.AVERAGING and (ema or schedule != "constant"):
            raise UserError(
                f"optim.name: '{other}' averages by itself and needs no decay: set optim.schedule"
                "='constant' and optim.ema=False."
            )
    return plan.optimizer(ema)._replace(burn_in=burn_in)


class Plan(NamedTuple):
    """What `make` was asked for, checked.

    Attributes:
      name, schedule, args: see `make`. horizon: the step where a decaying schedule ends.
      rules: (expression, settings) pairs, each with a label.
      rates: (expression, multiplier) pairs, besides what the rules say of learning rates.
    """

    name: str
    schedule: str
    horizon: int
    args: dict[str, Any]
    rules: tuple[tuple[str, dict[str, Any]], ...]
    rates: tuple[tuple[str, float], ...]

    def names(self) -> set[str]:
        """The optimizers in use."""
        return {self.name} | {rule["name"] for _, rule in self.rules if "name" in rule}

    def args_of(self, name: str) -> dict[str, Any]:
        """What `optim.args` says is said to `optim.name` alone."""
        return self.args if name == self.name else {}

    def optimizer(self, ema: bool) -> Optimizer:
        """What a task is handed."""

        def scaled(rates: Mapping[str, float]) -> Optimizer:
            if rates and (unfit := self.names() - optimizers.ENTRYWISE):
                raise UserError(
                    f"optim.name: '{min(unfit)}' with task.model.base_width: muP's learning rates"
                    " are known here for optimizers that normalize each entry of the gradient:"
                    f" {', '.join(sorted(optimizers.ENTRYWISE))}."
                )
            return self._replace(rates=tuple(rates.items())).optimizer(ema)

        return Optimizer(self.init, self.update, ema, scaled)

    def claims(self, params: Tree) -> Tree:
        """The rule of each parameter."""
        return tree.claim(params, [pattern for pattern, _ in self.rules], "optim.rules")

    def transformation(self, params: Tree, hyper: Hyper, lr: jax.Array) -> Any:
        """Optax's, from traced numbers: one for each rule, and within it for each multiplier."""
        patterns = [pattern for pattern, _ in self.rates]

        def label(name: str, rule: int) -> int:
            rate = tree.first_match(name, patterns)
            return rule if rate is None else rule + len(self.rules) * (rate + 1)

        labels = tree.map_named(label, self.claims(params))
        transforms = {}
        for each in sorted(set(jax.tree.leaves(labels))):
            part, rule = divmod(each, len(self.rules))
            rate = self.rates[part - 1][1] if part else 1.0
            transforms[each] = self._part(self.rules[rule][1], rate, hyper, lr)
        return optax.partition(transforms, labels)

    def _part(self, rule: dict[str, Any], rate: float, hyper: Hyper, lr: jax.Array) -> Any:
        if rule.get("freeze"):
            return optax.set_to_zero()
        name, decay = rule.get("name", self.name), rule.get("decay", 1.0)
        if optimizers.decoupled(name):
            decay = decay / rate  # optax multiplies it by the learning rate
        return optimizers.transformation(
            name, self.args_of(name), lr * (rule.get("lr", 1.0) * rate), decay, hyper
        )

    def init(self, params: Tree, hyper: Hyper, *, part_of: Tree | None = None) -> Tree:
        """See `Optimizer`."""
        used = set(jax.tree.leaves(self.claims(params if part_of is None else part_of)))
        for i, (pattern, rule) in enumerate(self.rules):
            if i not in used and {"freeze", "lr", "name"} & rule.keys():
                raise UserError(f"optim.rules: '{pattern}' claims no parameter; is it misspelt?")
        return self.transformation(params, hyper, hyper["lr"]).init(tree.widened(params))

    def update(
        self, grads: Tree, opt: Tree, params: Tree, hyper: Hyper, step: jax.Array,
        curvature: Callable[[], Tree] | None = None,
    ) -> tuple[Tree, Tree, dict[str, jax.Array]]:  # fmt: skip
        """See `Optimizer`."""
        lr = learning_rate(self.schedule, self.horizon, step, hyper)
        narrow, params, grads = params, tree.widened(params), tree.widened(grads)
        claims = self.claims(params)
        # A frozen parameter's gradient must not take part in the norm: XLA then drops its
        # backward pass altogether.
        grads = jax.tree.map(
            lambda g, i: jnp.zeros_like(g) if self.rules[i][1].get("freeze") else g, grads, claims
        )
        norm = optax.tree.norm(grads)
        clip = hyper["clip_norm"]
        scale = jnp.where((clip > 0) & (norm > clip), clip / jnp.maximum(norm, 1e-30), 1.0)
        grads = jax.tree.map(lambda g: g * scale, grads)
        more = self._more(opt, params, curvature)
        updates, opt = self.transformation(params, hyper, lr).update(grads, opt, params, **more)
        stats = {"grad_norm": norm, "lr": lr}
        labels: dict[str, set[int]] = {}
        for i in sorted(set(jax.tree.leaves(claims))):
            if not self.rules[i][1].get("freeze"):
                labels.setdefault(self.rules[i][1]["label"], set()).add(i)
        for label, chosen in labels.items():
            stats[f"update/{label}"] = _ratio(updates, params, claims, chosen)
        params = optax.apply_updates(narrow, updates)
        return params, opt, {k: v.astype(jnp.float32) for k, v in stats.items()}

    def _more(
        self, opt: Tree, params: Tree, curvature: Callable[[], Tree] | None
    ) -> dict[str, Tree]:
        """What optax's functions are told besides gradients and parameters."""
        names = self.names() & optimizers.CURVED
        if not names:
            return {}
        if curvature is None:
            raise UserError(
                f"optim.name: '{min(names)}' wants labels drawn from the model's own prediction, to"
                " estimate the curvature; this task draws none. Language modelling does."
            )
        every = self.args_of(min(names)).get("update_interval", optimizers.CURVATURE_EVERY)
        return {"curvature": optimizers.curvature_if_due(opt, curvature, params, every)}


def _ratio(updates: Tree, params: Tree, claims: Tree, rules: set[int]) -> jax.Array:
    """The norm of the updates over the norm of the parameters, of what some rules claim."""
    chosen = [
        (u, p)
        for u, p, i in zip(*map(jax.tree.leaves, (updates, params, claims)), strict=True)
        if i in rules
    ]
    update, size = (optax.tree.norm([pair[k] for pair in chosen]) for k in (0, 1))
    return update / jnp.maximum(size, 1e-30)
