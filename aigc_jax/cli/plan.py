"""`aigc plan CONFIG`: what a run would take, before it is started."""

import argparse
import json
import statistics
import time
from typing import Any

from aigc_jax.cli import ahead, front, wire
from aigc_jax.core import config
from aigc_jax.core.devices import DEVICES
from aigc_jax.core.units import human
from aigc_jax.errors import UserError

_BEST = (
    "",
    "(at best, from published figures: products at the peak; data and fsdp behind them)",
)


def add(subparsers: Any) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "plan", help="parameters, FLOPs, memory and hours of a run, from its compiled step"
    )
    front.add_config_arguments(parser)
    parser.add_argument(
        "--steps", type=int, default=10, help="steps to time (default 10); 0 only counts"
    )
    parser.add_argument(
        "--devices", metavar="N", help="compile for N simulated devices instead (512 at most)"
    )
    parser.add_argument("--mesh", metavar="AXIS:N,...", help="of them, as data:4,fsdp:2")
    parser.add_argument(
        "--target", metavar="DEVICE", help="estimate on these: " + ", ".join(DEVICES)
    )
    parser.add_argument("--tokens", metavar="COUNT", help="of the whole run, as 300B")
    parser.add_argument("--json", action="store_true", help="plain numbers, as one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Counts, compiles the step, reads its memory, times a few steps, prints."""
    if args.steps < 0:
        raise UserError(f"--steps={args.steps}: expected 0 or more.")
    if args.tokens and not args.target:
        raise UserError("--tokens says for how long; add --target=DEVICE, which says on what.")
    if args.devices is not None or args.mesh or args.target:
        found = ahead.plan(args)
        if args.json:
            print(json.dumps(found))
        else:
            _print(ahead_words(found))
        return 0
    built = wire.parts(config.load(args.config, args.overrides))
    plan = _plan(built, args.steps)
    if args.json:
        print(json.dumps(plan))
        return 0
    _print(_words(plan, built.data.spec.facts.get("unit", "examples")))
    return 0


def _print(rows: list[tuple[str, str]]) -> None:
    for name, value in rows:
        print(f"{name:50} {value}".rstrip())


def _plan(built: wire.Parts, timed: int) -> dict[str, Any]:
    """Returns plain numbers; those of speed and memory only if steps are timed."""
    import jax
    import numpy as np

    from aigc_jax.core import tree
    from aigc_jax.core.flops import count_flops
    from aigc_jax.train import guard, peak, program, sharding

    settings = built.settings
    hyper = {name: np.float32(value) for name, value in built.config["hyper"].items()}
    init = guard.guarded_init(built.task.init)
    step = guard.guarded_step(built.task.step, policy=settings.on_bad, spike=settings.spike)
    abstract = jax.eval_shape(init, jax.random.key(0), hyper)
    shape = {
        name: jax.ShapeDtypeStruct(spec.shape, spec.dtype)
        for name, spec in built.data.spec.arrays.items()
    }
    plan: dict[str, Any] = {
        "parameters": tree.count(abstract.params),
        "state_bytes": tree.size_bytes(abstract),
        "steps": settings.steps,
        "flops_a_step": count_flops(step, abstract, shape),
    }
    if not timed:
        return plan
    begin = time.perf_counter()
    compiled = program.build(step, abstract, shape, built.placement, settings.steps_per_call)
    plan["compile_seconds"] = time.perf_counter() - begin
    memory = compiled.compiled.memory_analysis()
    plan["argument_bytes"] = memory.argument_size_in_bytes
    plan["temporary_bytes"] = memory.temp_size_in_bytes
    plan["device_bytes"] = (
        memory.argument_size_in_bytes + memory.temp_size_in_bytes
        + memory.output_size_in_bytes - memory.alias_size_in_bytes
    )  # fmt: skip
    # A call's batches as rows, and stacked, while those of the call before are on the device.
    plan["batch_bytes"] = 2 * tree.size_bytes(shape) * compiled.capacity

    state = sharding.create(built.placement, init, jax.random.key(settings.seed), hyper)
    seconds = []
    for i in range(timed + 1):
        fed = [built.data.batch(i, (jax.process_index(), jax.process_count()))]
        batches = program.stack(fed, compiled.capacity, built.placement)
        begin = time.perf_counter()
        state, metrics = compiled.run(state, batches, np.int32(1))
        jax.block_until_ready(metrics)
        seconds.append(time.perf_counter() - begin)
    plan["seconds_a_step"] = statistics.median(seconds[1:])
    plan["items_a_step"] = float(metrics["loss"][1][0])
    best = peak.Peak()
    plan["peak_flops"], plan["peak_source"] = best.value, best.source
    return plan


def _words(plan: dict[str, Any], unit: str) -> list[tuple[str, str]]:
    """The plan as lines for a reader."""
    steps, flops = plan["steps"], plan["flops_a_step"]
    rows = [
        ("parameters", f"{plan['parameters']:,}"),
        ("state (parameters, optimizer, averages)", f"{human(plan['state_bytes'])}B"),
        ("FLOPs a step (matrix products and convolutions)", human(flops)),
        ("FLOPs in all", human(flops * steps)),
    ]
    if "seconds_a_step" not in plan:
        return rows
    items, typical = plan["items_a_step"], plan["seconds_a_step"]
    rows += [
        ("per device: arguments", f"{human(plan['argument_bytes'])}B"),
        ("per device: temporary", f"{human(plan['temporary_bytes'])}B"),
        ("per device: at most", f"{human(plan['device_bytes'])}B"),
        ("host: batches on their way", f"{human(plan['batch_bytes'])}B"),
        (f"{unit} a step", human(items)),
        (f"{unit} in all", human(items * steps)),
        ("compilation", f"{plan['compile_seconds']:.1f} s"),
        ("a step (median)", f"{1e3 * typical:.1f} ms"),
        ("training, without evaluation", f"{typical * steps / 3600:.2f} h"),
    ]
    if plan["peak_flops"]:
        share = 100 * flops / typical / plan["peak_flops"]
        source = plan["peak_source"]
        rows.append(("MFU", f"{share:.0f} % of {human(plan['peak_flops'])} FLOP/s ({source})"))
    return rows


def ahead_words(plan: dict[str, Any]) -> list[tuple[str, str]]:
    """The plan on simulated devices, as lines for a reader."""
    sizes = ", ".join(f"{axis} {n}" for axis, n in plan["mesh"].items() if n > 1) or "one device"
    rows = [
        ("simulated devices", f"{plan['devices']} ({sizes})"),
        ("parameters", f"{plan['parameters']:,}, {human(plan['parameter_bytes'])}B"),
        ("state (parameters, optimizer, averages)", f"{human(plan['state_bytes'])}B"),
        ("of it the optimizer", f"{human(plan['optimizer_bytes'])}B"),
    ]
    if refused := plan.get("target", {}).get("refused"):
        return [*rows, ("as given", f"refused: {refused}"), *_proposal_words(plan)]
    rows += [
        ("per device: state and batch", f"{human(plan['argument_bytes'])}B"),
        ("per device: gradients and activations", f"{human(plan['temporary_bytes'])}B"),
        ("per device: at most", f"{human(plan['device_bytes'])}B"),
        ("FLOPs a step (matrix products and convolutions)", human(plan["flops_a_step"])),
    ]
    if plan["idle_axes"]:
        axes = ", ".join(plan["idle_axes"])
        rows.append((f"NOTHING is split over {axes}", "its devices repeat the same work"))
    for axes, kinds in plan["collective_bytes"].items():
        said = ", ".join(f"{kind} {human(size)}B" for kind, size in kinds.items())
        rows.append((f"exchanged a step over {axes}", said))
    if plan["reduce_scatters_seen_as_all_reduce"]:
        rows.append(("", "(each device keeps a part: a reduce-scatter on accelerators)"))
    if plan["loops_of_unknown_length"]:
        rows.append(("", f"({plan['loops_of_unknown_length']} loops of unknown length, once each)"))
    rows.append(("each device sends a step", f"{human(plan['sent_bytes'])}B"))
    if "target" not in plan:
        return rows
    rows += _target_words(f"on {plan['target']['name']}, as given", plan["target"])
    if plan["target"]["held"] != plan["device_bytes"]:
        rows.append(("", "(by formulas: the program above has float32 for bfloat16, as CPUs do)"))
    return [*rows, *_proposal_words(plan)]


def _proposal_words(plan: dict[str, Any]) -> list[tuple[str, str]]:
    name, proposal = plan["target"]["name"], plan["proposal"]
    if proposal is None:
        return [("proposal", f"nothing that was tried fits {name}: take more devices")]
    if not proposal["settings"]:
        return [("proposal", "as given"), _BEST]
    return [
        ("proposal", " ".join(proposal["settings"])),
        *_target_words(f"on {name}, as proposed", proposal),
        _BEST,
    ]


def _lasts(seconds: float) -> str:
    """A time in the unit that a person would take."""
    for unit, size in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.2g} s"


def _target_words(head: str, found: dict[str, Any]) -> list[tuple[str, str]]:
    fits = "fits" if found["fits"] else "does not fit"
    step, steps = found["seconds"], found["steps"]
    memory = f"{human(found['held'])}B {fits} in {human(found['room'])}B"
    return [
        (f"{head}: memory", memory),
        (f"{head}: a step", f"{1e3 * step:.3g} ms, bound by {found['bound']}"),
        (f"{head}: MFU", f"{100 * found['mfu']:.0f} %"),
        (f"{head}: {human(steps)} steps",
         f"{_lasts(86400 * found['days'])}, {human(found['device_hours'])} device-hours"),
    ]  # fmt: skip
