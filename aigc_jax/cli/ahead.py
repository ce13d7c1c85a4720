"""`aigc plan` for devices that are not there: the step compiled for simulated ones."""

import argparse
import math
import os
import time
from typing import Any, Self

from aigc_jax.cli import wire
from aigc_jax.core import config, devices
from aigc_jax.errors import UserError, nearest

MOST = 512  # simulated devices
_AXES = ("data", "fsdp", "sequence", "tensor")
_QUICK = ("--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true")
_TRIES = 2  # proposals that are compiled to confirm them


def asked(args: argparse.Namespace) -> tuple[int, dict[str, int]]:
    """Reads --devices and --mesh: how many devices, and sizes of axes ({} where none were given).

    Raises:
      UserError: no numbers, no such axis, more devices than can be simulated.
    """
    mesh: dict[str, int] = {}
    for word in filter(None, (args.mesh or "").split(",")):
        axis, _, number = word.partition(":")
        if axis not in _AXES:
            raise UserError(
                f"--mesh={args.mesh}: there is no axis '{axis}'.{nearest(axis, _AXES)} Write it as"
                f" data:4,fsdp:2; there are {', '.join(_AXES)}."
            )
        if axis in mesh:
            raise UserError(f"--mesh={args.mesh}: the axis '{axis}' stands there twice.")
        mesh[axis] = _count(f"--mesh={args.mesh}", number)
    count = math.prod(mesh.values()) if args.devices is None else _count("--devices", args.devices)
    if count > MOST:
        raise UserError(
            f"--devices={count}: up to {MOST} can be simulated here; benchmarks/scaling_tables.py"
            " estimates larger ones on paper."
        )
    if mesh and "data" not in mesh:
        mesh["data"] = max(1, count // math.prod(mesh.values()))
    if mesh and math.prod(mesh.values()) != count:
        raise UserError(
            f"--mesh={args.mesh}: the axes multiply to {math.prod(mesh.values())} and there are"
            f" {count} devices; leave data out and it takes the rest."
        )
    return count, mesh


def _count(what: str, text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise UserError(f"{what}: expected a number of 1 or more, got '{text}'.")
    return int(text)


def simulate(count: int) -> None:
    """Makes JAX see so many devices, all of them this CPU.

    Raises:
      UserError: JAX has started in this process, and counts its devices once.
    """
    wire.start_jax()
    # The program is read and never run: machine code for it need not be good.
    os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *_QUICK])
    import jax

    try:
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError:
        raise UserError(
            f"--devices={count}: JAX has started in this process and counts its devices only once;"
            " run `aigc plan` in a process of its own."
        ) from None
    jax.config.update("jax_platforms", "cpu")
    # What comes out of the cache has no text to read the collectives in.
    jax.config.update("jax_enable_compilation_cache", False)


class Planned:
    """The step of a run's parts: its state in the abstract, and, once compiled, its program.

    Attributes:
      built: the parts. abstract: the state. numbers: plain numbers of the plan.
      collectives: of a step, once compiled.
    """

    def __init__(self, built: wire.Parts) -> None:
        import jax
        import numpy as np

        from aigc_jax.core import tree
        from aigc_jax.train import guard

        self.built, placement = built, built.placement
        hyper = {name: np.float32(value) for name, value in self.built.config["hyper"].items()}
        init = guard.guarded_init(self.built.task.init)
        self.abstract = jax.eval_shape(init, jax.random.key(0), hyper)
        self.numbers: dict[str, Any] = {
            "devices": placement.mesh.size,
            "mesh": dict(placement.mesh.shape),
            "parameters": tree.count(self.abstract.params),
            "parameter_bytes": tree.size_bytes(self.abstract.params),
            "state_bytes": tree.size_bytes(self.abstract),
            "optimizer_bytes": tree.size_bytes(self.abstract.opt),
            "steps": built.settings.steps,
        }

    def compile(self) -> Self:
        """Counts the step, compiles it for the placement and reads the program; returns itself.

        Raises:
          UserError: the mesh does not divide what it is to split.
        """
        from aigc_jax.core.flops import count_flops
        from aigc_jax.train import collectives, guard, program

        settings, placement = self.built.settings, self.built.placement
        step = guard.guarded_step(
            self.built.task.step, policy=settings.on_bad, spike=settings.spike
        )
        self.batch = program.global_batch(self.built.data.spec.arrays, placement)
        with placement.scope():
            flops = count_flops(step, self.abstract, self.batch)
        begin = time.perf_counter()
        done = program.build(step, self.abstract, self.batch, placement, 1).compiled
        memory = done.memory_analysis()
        self.collectives, unknown = collectives.find(done.as_text(), dict(placement.mesh.shape))
        self.numbers |= {
            "idle_axes": placement.idle(self.abstract),
            "items_a_step": self._items(),
            "flops_a_step": flops,
            "compile_seconds": time.perf_counter() - begin,
            "argument_bytes": memory.argument_size_in_bytes,
            "temporary_bytes": memory.temp_size_in_bytes,
            "device_bytes": memory.argument_size_in_bytes + memory.temp_size_in_bytes
            + memory.output_size_in_bytes - memory.alias_size_in_bytes,
            "collective_bytes": collectives.table(self.collectives),
            "sent_bytes": sum(one.sent for one in self.collectives),
            "reduce_scatters_seen_as_all_reduce": sum(c.times for c in self.collectives if c.split),
            "loops_of_unknown_length": unknown,
        }  # fmt: skip
        return self

    def _items(self) -> int:
        """What a step counts: the numbers of the mask, one for each token or row."""
        shape = next(iter(self.batch.values())).shape
        if self.built.data.spec.facts["unit"] == "tokens":
            return int(self.batch["mask"].shape[0] * self.batch["mask"].shape[1])
        return int(shape[0])

    def width(self) -> int:
        """Bytes of a number in products: of networks that have a dtype; the others have float32."""
        dtype = self.built.config["task"]["model"].get("dtype", "float32")
        return 4 if dtype == "float32" else 2

    def model_flops(self) -> float:
        """FLOPs of the model alone: without what rematerialization computes again."""
        plan = self.paper()
        if plan is None:
            return float(self.numbers["flops_a_step"])
        from aigc_jax.train import formulas

        work, own = formulas.flops(*plan)
        return float(self.numbers["flops_a_step"]) * own / work

    def paper(self) -> Any:
        """Returns (shape, plan) of `train.formulas`, or None for what is no transformer."""
        task = self.built.config["task"]
        if task["name"] != "lm" or task["model"]["name"] != "transformer":
            return None
        from aigc_jax.core import tree
        from aigc_jax.train import formulas

        facts = self.built.data.spec.facts
        options = {key: value for key, value in task["model"].items() if key != "name"}
        model = config.maker("models", "transformer")(
            vocab_size=facts["vocab_size"], context=facts["context"], **options
        )
        held = tree.size_bytes(self.abstract) / tree.size_bytes(self.abstract.params)
        shape = formulas.of_model(model, slots=round(held) - 1, chunk=task["vocab_chunk"])
        # A policy that the formulas do not know is taken for the one that keeps most like it.
        like = {"dots": "none", "offload": "dots_no_batch"}
        policy = task["model"]["remat"]
        plan = formulas.Plan(
            self.numbers["mesh"], self.built.settings.batch_size, task["accumulate"],
            like.get(policy, policy),
        )  # fmt: skip
        return shape, plan

    def on(self, device: devices.Device, budget: float | None) -> dict[str, Any]:
        """Estimates a step on a device, and the run: of so many items, or of its own steps."""
        from aigc_jax.train import estimate, formulas

        numbers, paper = self.numbers, self.paper()
        count, held = numbers["devices"], float(numbers["device_bytes"])
        moved = 2.0 * (numbers["argument_bytes"] + numbers["temporary_bytes"])
        if paper is not None:
            moved = formulas.moved(*paper)
            if paper[0].narrow == 2:  # the CPU's compiler has made float32 of it
                held = sum(formulas.memory(*paper).values())
        # Along an idle axis all devices do the same.
        shares = count / math.prod(numbers["mesh"][axis] for axis in numbers["idle_axes"])
        found = estimate.step(
            device, self.width(), numbers["flops_a_step"] / shares, self.model_flops() / count,
            moved, self.collectives,
        )  # fmt: skip
        steps = numbers["steps"] if budget is None else budget / numbers["items_a_step"]
        hours = found.seconds * steps / 3600
        return {
            "fits": held <= device.memory,
            "held": held,
            "room": device.memory,
            "source": device.source,
            **found._asdict(),
            "steps": math.ceil(steps),
            "days": hours / 24,
            "device_hours": hours * count,
        }


def plan(args: argparse.Namespace) -> dict[str, Any]:
    """Returns plain numbers of the config on simulated devices."""
    from aigc_jax.train import estimate

    count, mesh = asked(args)
    device = devices.find(args.target) if args.target else None
    budget = estimate.tokens(args.tokens) if args.tokens else None
    words = [f"--config.mesh.{axis}={size}" for axis, size in mesh.items()]
    words += [f"--config.mesh.{axis}=1" for axis in _AXES if mesh and axis not in mesh]
    cfg = config.load(args.config, [*args.overrides, *words])
    simulate(count)
    given = Planned(wire.parts(cfg))
    refused = ""
    try:
        given.compile()
    except UserError as error:
        if device is None:
            raise
        refused = str(error)
    found = dict(given.numbers)
    if device is not None:
        on = {"refused": refused} if refused else given.on(device, budget)
        found["target"] = {"name": args.target.lower(), **on}
        found["proposal"] = _proposal(args, given, device, budget, refused)
    return found


def _proposal(
    args: argparse.Namespace, given: Planned, device: devices.Device, budget: float | None,
    refused: str,
) -> dict[str, Any] | None:  # fmt: skip
    """Finds what fits the target, best first, and compiles it to confirm; None if nothing does.

    Raises:
      UserError: `refused`, where nothing that was tried compiles.
    """
    from aigc_jax.train import proposals

    paper, count = given.paper(), given.numbers["devices"]
    if paper is None:
        tries = _plainly(given)
    else:
        shape, plan = paper
        found = proposals.search(shape, plan.rows, plan.accumulate, count, device)
        base = config.to_dict(config.load(args.config, args.overrides))
        if not found and proposals.smallest(shape, plan.rows, plan.accumulate, count, device):
            return None  # some mesh divides it, and none fits
        tries = [_words(one, base, bool(args.mesh)) for one in found[:_TRIES]]
    for words in tries:
        made = given
        if words:
            try:
                cfg = config.load(args.config, [*args.overrides, *words])
                made = Planned(wire.parts(cfg)).compile()
            except UserError:  # a mesh that does not go with the rest of the recipe either
                continue
        elif refused:
            continue
        refused = ""
        estimated = made.on(device, budget)
        if estimated["fits"]:
            return {
                "settings": words,
                "device_bytes": made.numbers["device_bytes"],
                "sent_bytes": made.numbers["sent_bytes"],
                **estimated,
            }
    if refused:
        raise UserError(refused)
    return None


def _words(one: Any, base: dict[str, Any], meshed: bool) -> list[str]:
    """What to add to a command; nothing where the recipe says so already.

    Args:
      meshed: the command has --mesh, so that the recipe's own mesh is not what was given.
    """
    from aigc_jax.train import proposals

    wanted = {f"mesh.{axis}": size for axis, size in one.plan.mesh.items()}
    wanted["task.model.remat"] = one.plan.remat
    wanted["task.accumulate"] = one.plan.accumulate
    said = {} if meshed else {f"mesh.{axis}": base["mesh"][axis] for axis in _AXES}
    said["task.model.remat"] = base["task"]["model"]["remat"]
    said["task.accumulate"] = base["task"]["accumulate"]
    said["task.model.scan"] = base["task"]["model"]["scan"]
    if proposals.scanned(one.plan):
        wanted["task.model.scan"] = True
    # An axis of -1 takes what the others leave, and that is what is wanted of it.
    return [
        f"--config.{name}={value}"
        for name, value in wanted.items()
        if said.get(name) not in (value, -1)
    ]


def _plainly(given: Planned) -> list[list[str]]:
    """What can be tried with any task: as it is, the state split, the batch in two."""
    count = given.numbers["devices"]
    words = [f"--config.mesh.{axis}={1 if axis != 'fsdp' else count}" for axis in _AXES]
    tries: list[list[str]] = [[], words]
    if "accumulate" in given.built.config["task"]:
        twice = 2 * given.built.config["task"]["accumulate"]
        tries.append([*words, f"--config.task.accumulate={twice}"])
    return tries
