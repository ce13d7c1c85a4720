"""The step of two players, which `gan` and `assisted_gan` share.

The discriminator takes `critic_steps` steps on parts of the batch, then the generator takes one, on
the last of them or on a part of its own.
Networks that help stand beside either player and are trained with it (`tasks.auxiliary`).

Letters: B = examples of one part of the batch, m = packing.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from aigc_jax.core import averages
from aigc_jax.core.optim import Hyper, Optimizer
from aigc_jax.core.task import Batch, Metrics, State, Task, single
from aigc_jax.generate.batched import Batched
from aigc_jax.losses import adversarial as losses
from aigc_jax.models.augment import Strength, augment
from aigc_jax.models.conditioning import Judged
from aigc_jax.tasks.auxiliary import Auxiliary, Scene
from aigc_jax.tasks.players import Players

Tree = Any
_MEMORY = 0.99  # of the running means that LeCam and ADA read
# What each step draws, by number: never two from one key.
_LATENTS, _AUGMENT, _PENALTY, _HELP, _GENERATOR, _RIVAL = range(6)


class Match:
    """How two players and their helpers learn from each other.

    Args:
      players: the two networks and the rules.
      optimizer: of both, with a learning rate of the discriminator's own.
      helpers: see `tasks.auxiliary`; none in a plain GAN.
    """

    def __init__(
        self, players: Players, optimizer: Optimizer, helpers: tuple[Auxiliary, ...] = ()
    ) -> None:
        self.players, self.rules, self.optimizer = players, players.rules, optimizer
        self.helpers, self.game = helpers, losses.GAMES[players.rules.loss]
        self.teams = {
            side: (side, *(h.name for h in helpers if h.side == side and h.init))
            for side in ("generator", "discriminator")
        }

    def task(self) -> Task:
        """Returns the task."""
        players = self.players
        functions: dict[str, Callable[..., Any]] = {
            "features": players.features,
            "decode": players.decode,
            "latents": players.latents,
            "standing": players.standing,
        }
        normal = self.rules.latent == "normal"  # there is nothing beyond a uniform one's range
        draw = players.draw_truncated if normal else players.draw
        return Task(
            self.init, self.step, players.evaluate, Batched(draw, classes=players.classes),
            functions=functions,
        )  # fmt: skip

    def init(self, key: jax.Array, hyper: Hyper) -> State:
        """Makes the first state."""
        params, networks = self.players.init(jax.random.fold_in(key, 0))
        kept: dict[str, Tree] = dict(networks)
        made = jnp.zeros((2, *self.players.shape))
        for i, helper in enumerate(self.helpers):
            own = jax.random.fold_in(jax.random.fold_in(key, 1), i)
            if helper.init is not None:
                params[helper.name] = helper.init(own, made)
            if helper.frozen is not None:
                kept[helper.name] = helper.frozen(jax.random.fold_in(own, 1), made)
        averaged: dict[str, Tree] = {}
        if self.optimizer.ema:
            averaged = {"generator": averages.begin(params["generator"])}
            kept["ema"] = {"generator": averages.begin(kept["generator"])}
        if self.rules.augment == "ada":
            kept["ada"] = {"p": jnp.zeros(()), "sign": jnp.zeros(())}
        if "lecam" in self.rules.penalties:
            kept["lecam"] = {"real": jnp.zeros(()), "made": jnp.zeros(())}
        opt = {
            side: self.optimizer.init({n: params[n] for n in team}, hyper, part_of=params)
            for side, team in self.teams.items()
        }
        return State(jnp.zeros((), jnp.int32), key, params, opt, kept, averaged, hyper)

    def step(self, state: State, batch: Batch) -> tuple[State, Metrics]:
        """The discriminator's steps, then the generator's."""
        key = jax.random.fold_in(state.key, state.step)
        k, n = self.rules.critic_steps, self.rules.parts
        parts = {name: x.reshape(n, x.shape[0] // n, *x.shape[1:]) for name, x in batch.items()}

        def critic(state: State, item: tuple[jax.Array, Batch]) -> tuple[State, Metrics]:
            return self._critic_step(state, item[1], jax.random.fold_in(key, item[0]), item[0])

        if k == 1:
            state, metrics = critic(state, (jnp.int32(0), {n: x[0] for n, x in parts.items()}))
        else:
            first = {name: x[:k] for name, x in parts.items()}
            state, metrics = jax.lax.scan(critic, state, (jnp.arange(k), first))
            metrics = jax.tree.map(lambda x: x.sum(0), metrics)
        last = {name: x[-1] for name, x in parts.items()}
        state, more = self._generator_step(state, last, jax.random.fold_in(key, k))
        total, weight = metrics["grad_norm"]
        # A hinge that is satisfied everywhere has no gradient, which is no bad number.
        ratio = more["generator_grad_norm"][0] * weight / jnp.maximum(total, 1e-12 * weight)
        metrics |= {**more, "gradient_ratio": single(ratio)}
        return state.replace(step=state.step + 1), metrics

    def _seen(self, state: State, key: jax.Array, x: jax.Array) -> jax.Array:
        """What the discriminator sees of examples: augmented, then packed."""
        policy, hyper = self.rules.augment, state.hyper
        if policy != "none":
            p = state.vars["ada"]["p"] if policy == "ada" else hyper["augment_p"]
            strength = Strength(p, hyper["augment_colour"] * p, hyper["augment_cutout"] * p)
            x = augment(policy, key, x, strength)
        return self.players.pack(x)

    def _critic_loss(
        self, team: Tree, state: State, rows: Batch, made: jax.Array, key: jax.Array, z: jax.Array,
        count: jax.Array,
    ) -> tuple[jax.Array, tuple[Tree, dict[str, jax.Array]]]:  # fmt: skip
        """Returns the mean loss of the discriminator's team, what it keeps, and its parts."""
        m, hyper, label = self.rules.packing, state.hyper, self.players.labels(rows)
        one, two = jax.random.split(jax.random.fold_in(key, _AUGMENT))
        real_x, made_x = self._seen(state, one, rows["x"]), self._seen(state, two, made)
        own, kept = team["discriminator"], state.vars["discriminator"]
        real, kept = self.players.judge(own, kept, real_x, label[::m])
        fake, kept = self.players.judge(own, kept, made_x, label[::m])
        r, f = real.logits[:, 0], fake.logits[:, 0]
        played = self.game.discriminator(r, f).mean()
        total = played
        if real.classes is not None and fake.classes is not None:
            total += losses.class_cross_entropy(real.classes, label).mean()

        # The slope is that with respect to the pictures themselves, through the augmentation, as
        # StyleGAN2-ADA and R3GAN take it.
        def logits(drawn: jax.Array, x: jax.Array) -> jax.Array:
            seen = self._seen(state, drawn, self.players.unpack(x))
            return self.players.judge(own, kept, seen, label[::m])[0].logits[:, 0]

        def penalty() -> jax.Array:
            found = jnp.zeros(())
            for i, name in enumerate(self.rules.penalties):
                inner = jax.random.fold_in(jax.random.fold_in(key, _PENALTY), i)
                if name == "lecam":
                    mean = state.vars["lecam"]
                    each = losses.lecam(r, f, mean["real"], mean["made"])
                else:
                    points, centre = losses.PENALTIES[name]
                    at = points(inner, self.players.pack(rows["x"]), self.players.pack(made))
                    drawn = one if name == "r1" else two
                    each = centre(losses.squared_slope(partial(logits, drawn), at))
                found += hyper[name] * each.mean()
            return found * self.rules.penalty_every

        if self.rules.penalties:
            due = count % self.rules.penalty_every == 0
            always = self.rules.penalty_every == 1
            total += penalty() if always else jax.lax.cond(due, penalty, lambda: jnp.zeros(()))
        scene = self._scene(state, team, rows["x"], made, z, label, key)
        for helper in self.helpers:
            if helper.critic is not None:
                total += hyper["lambda_1"] * helper.critic(scene).mean()
        return total, (kept, {"real": r, "made": f, "played": played})

    def _scene(
        self, state: State, team: Tree, x: jax.Array, made: jax.Array, z: jax.Array,
        label: jax.Array, key: jax.Array,
    ) -> Scene:  # fmt: skip
        params = {**state.params, **team}

        def judge(x: jax.Array) -> Judged:
            kept = state.vars["discriminator"]
            return self.players.judge(params["discriminator"], kept, self.players.pack(x),
                              label[:: self.rules.packing])[0]  # fmt: skip

        return Scene(x, made, z, params, state.vars, jax.random.fold_in(key, _HELP), judge)

    def _hyper(self, hyper: Hyper, side: str) -> Hyper:
        if side == "generator":
            return hyper
        return {**hyper, "lr": hyper["lr"] * hyper["discriminator_lr"]}

    def _critic_step(
        self, state: State, rows: Batch, key: jax.Array, i: jax.Array
    ) -> tuple[State, Metrics]:
        count = state.step * self.rules.critic_steps + i
        z = self.players.latents(jax.random.fold_in(key, _LATENTS), rows["x"].shape[0])
        made, kept_g = self.players.generate(
            state.params["generator"], state.vars["generator"], z, self.players.labels(rows)
        )
        team = {name: state.params[name] for name in self.teams["discriminator"]}
        gradient = jax.value_and_grad(self._critic_loss, has_aux=True)
        (total, (kept, found)), grads = gradient(team, state, rows, made, key, z, count)
        team, opt, stats = self.optimizer.update(
            grads, state.opt["discriminator"], team, self._hyper(state.hyper, "discriminator"),
            state.step,
        )  # fmt: skip
        r, f = found["real"], found["made"]
        changed = {**state.vars, "generator": kept_g, "discriminator": kept}
        changed |= self._running(state, r, f)
        state = state.replace(
            params={**state.params, **team},
            opt={**state.opt, "discriminator": opt},
            vars=changed,
        )
        metrics = {
            "loss": total,
            "discriminator_loss": found["played"],
            "real_logit": r.mean(),
            "made_logit": f.mean(),
            "real_sign": jnp.sign(r).mean(),
            "grad_norm": stats["grad_norm"],
            "lr": stats["lr"],
            **{f"{n}_discriminator": v for n, v in stats.items() if n.startswith("update/")},
        }
        if "ada" in changed:
            metrics["ada_p"] = changed["ada"]["p"]
        size = jnp.asarray(rows["x"].shape[0], jnp.float32)
        return state, {name: (value * size, size) for name, value in metrics.items()}

    def _running(self, state: State, r: jax.Array, f: jax.Array) -> dict[str, Tree]:
        """The means that LeCam and ADA keep, after one more part of the batch."""
        found: dict[str, Tree] = {}
        if "lecam" in state.vars:
            old = state.vars["lecam"]
            found["lecam"] = {
                "real": _MEMORY * old["real"] + (1.0 - _MEMORY) * r.mean(),
                "made": _MEMORY * old["made"] + (1.0 - _MEMORY) * f.mean(),
            }
        if "ada" in state.vars:
            old, hyper = state.vars["ada"], state.hyper
            sign = _MEMORY * old["sign"] + (1.0 - _MEMORY) * jnp.sign(r).mean()
            # p could go from 0 to 1 within `ada_images` real images (Karras et al. 2020).
            move = r.shape[0] * self.rules.packing / hyper["ada_images"]
            p = old["p"] + jnp.sign(sign - hyper["ada_target"]) * move
            found["ada"] = {"p": jnp.clip(p, 0.0, 1.0), "sign": sign}
        return found

    def _generator_step(self, state: State, rows: Batch, key: jax.Array) -> tuple[State, Metrics]:
        label = self.players.labels(rows)
        z = self.players.latents(jax.random.fold_in(key, _GENERATOR), rows["x"].shape[0])
        one, two = jax.random.split(jax.random.fold_in(key, _AUGMENT))

        def loss(team: Tree) -> tuple[jax.Array, tuple[Tree, jax.Array]]:
            made, kept = self.players.generate(team["generator"], state.vars["generator"], z, label)
            rival, m = self._rival(state, rows, made, key, z), self.rules.packing
            params, own = rival["discriminator"], state.vars["discriminator"]
            fake, _ = self.players.judge(params, own, self._seen(state, two, made), label[::m])
            # Games that don't look at real examples leave this unused, and XLA leaves it out.
            real, _ = self.players.judge(params, own, self._seen(state, one, rows["x"]), label[::m])
            played = self.game.generator(real.logits[:, 0], fake.logits[:, 0]).mean()
            total = played
            if fake.classes is not None:
                total += losses.class_cross_entropy(fake.classes, label).mean()
            scene = self._scene(state, {**rival, **team}, rows["x"], made, z, label, key)
            for helper in self.helpers:
                if helper.generator is not None:
                    total += state.hyper[helper.weight] * helper.generator(scene).mean()
            return total, (kept, played)

        team = {name: state.params[name] for name in self.teams["generator"]}
        grads, (kept, played) = jax.grad(loss, has_aux=True)(team)
        team, opt, stats = self.optimizer.update(
            grads, state.opt["generator"], team, state.hyper, state.step
        )
        changed = {**state.vars, "generator": kept}
        averaged = state.ema
        if averaged:
            move = partial(averages.move, state.hyper["ema_decay"])
            averaged = {"generator": move(averaged["generator"], team["generator"])}
            changed["ema"] = {"generator": move(state.vars["ema"]["generator"], kept)}
        state = state.replace(
            params={**state.params, **team},
            opt={**state.opt, "generator": opt},
            vars=changed,
            ema=averaged,
        )
        metrics = {"generator_loss": played, "generator_grad_norm": stats["grad_norm"]}
        metrics |= {f"{n}_generator": v for n, v in stats.items() if n.startswith("update/")}
        return state, {name: single(value) for name, value in metrics.items()}

    def _rival(
        self, state: State, rows: Batch, made: jax.Array, key: jax.Array, z: jax.Array
    ) -> Tree:
        """The discriminator's team as the generator meets it: some steps ahead if unrolled.

        Unrolled GAN (Metz et al. 2017, arXiv:1611.02163): the generator's gradient goes through
        the discriminator's answers to it. They are used for this and forgotten.
        """
        team = {name: state.params[name] for name in self.teams["discriminator"]}
        opt = state.opt["discriminator"]
        hyper = self._hyper(state.hyper, "discriminator")
        # The steps that the discriminator would take next: lazy penalties are due at some of them.
        count = (state.step + 1) * self.rules.critic_steps
        for i in range(self.rules.unroll):
            inner = jax.random.fold_in(jax.random.fold_in(key, _RIVAL), i)
            grads, _ = jax.grad(self._critic_loss, has_aux=True)(
                team, state, rows, made, inner, z, count + i
            )
            team, opt, _ = self.optimizer.update(grads, opt, team, hyper, state.step)
        return team
