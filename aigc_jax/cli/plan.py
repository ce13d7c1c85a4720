"""`aigc plan CONFIG`: what a run would take, before it is started."""

import argparse
import statistics
import time
from typing import Any

from aigc_jax.cli import front, wire
from aigc_jax.core import config
from aigc_jax.core.units import human


def add(subparsers: Any) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "plan", help="parameters, FLOPs, memory and hours of a run, from its compiled step"
    )
    front.add_config_arguments(parser)
    parser.add_argument("--steps", type=int, default=10, help="steps to time (default 10)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compiles the step, reads its memory, times a few steps, prints."""
    cfg = config.load(args.config, args.overrides)
    built = wire.parts(cfg)
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
    flops = count_flops(step, abstract, shape)
    begin = time.perf_counter()
    compiled = program.build(step, abstract, shape, built.placement, settings.steps_per_call)
    compile_seconds = time.perf_counter() - begin
    memory = compiled.compiled.memory_analysis()

    state = sharding.create(built.placement, init, jax.random.key(settings.seed), hyper)
    seconds = []
    for i in range(args.steps + 1):
        rows = [built.data.batch(i, (jax.process_index(), jax.process_count()))]
        batches = program.stack(rows, compiled.capacity, built.placement)
        begin = time.perf_counter()
        state, metrics = compiled.run(state, batches, np.int32(1))
        jax.block_until_ready(metrics)
        seconds.append(time.perf_counter() - begin)
    typical = statistics.median(seconds[1:] or seconds)
    best = peak.Peak()
    unit = built.data.spec.facts.get("unit", "examples")
    items = float(metrics["loss"][1][0])
    rows = [
        ("parameters", f"{tree.count(abstract.params):,}"),
        ("state (parameters, optimizer, averages)", f"{human(tree.size_bytes(abstract))}B"),
        ("per device: arguments", f"{human(memory.argument_size_in_bytes)}B"),
        ("per device: temporary", f"{human(memory.temp_size_in_bytes)}B"),
        ("FLOPs a step (matrix products and convolutions)", human(flops)),
        ("FLOPs in all", human(flops * settings.steps)),
        (f"{unit} a step", human(items)),
        (f"{unit} in all", human(items * settings.steps)),
        ("compilation", f"{compile_seconds:.1f} s"),
        (f"a step (median of {max(1, args.steps)})", f"{1e3 * typical:.1f} ms"),
        ("training, without evaluation", f"{typical * settings.steps / 3600:.2f} h"),
    ]
    if best.value:
        share = 100 * flops / typical / best.value
        rows.append(("MFU", f"{share:.0f} % of {human(best.value)} FLOP/s ({best.source})"))
    for name, value in rows:
        print(f"{name:50} {value}")
    return 0
