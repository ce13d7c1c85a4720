"""Steps of a recipe, as the loop takes them, by one process of one or several; see `turns.py`.

The first line says: `config` and `overrides`; `cores` that this process may use; `devices` that it
pretends to have; `address`, `count` and `index` of the processes, or no address for one alone;
`flags`, more of XLA's; `threads` of its pool, 0 for as many as cores.
"""

import json
import os
import resource
import sys
import time
from types import SimpleNamespace


def main() -> None:
    """Builds what the first line says, then takes steps as asked."""
    told = json.loads(sys.stdin.readline())
    # Gloo prints to standard output, from C++: what is for the other side has a stream of its own.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    os.sched_setaffinity(0, told["cores"])  # before JAX counts them for its threads
    if told["threads"]:
        os.environ["NPROC"] = str(told["threads"])
    flags = os.environ.get("XLA_FLAGS", ""), *told["flags"]
    if told["devices"] > 1:
        flags = *flags, f"--xla_force_host_platform_device_count={told['devices']}"
    os.environ["XLA_FLAGS"] = " ".join(flags).strip()

    from aigc_jax.cli import wire
    from aigc_jax.core import config

    cfg = config.load(told["config"], told["overrides"])
    wire.start_jax()

    from aigc_jax.train import cluster, collectives, guard, hlo, program, sharding, shards

    if told["address"]:
        signals = SimpleNamespace(asked=None, ask=lambda words: None)
        which = cluster.Cluster("variables", told["address"], told["count"], told["index"])
        cluster.join(which, {}, signals)

    import jax
    import numpy as np

    built = wire.parts(cfg)
    placement, settings = built.placement, built.settings
    hyper = {name: np.float32(value) for name, value in built.config["hyper"].items()}
    init = guard.guarded_init(built.task.init)
    step = guard.guarded_step(built.task.step, policy=settings.on_bad, spike=settings.spike)
    state = sharding.create(placement, init, jax.random.key(settings.seed), hyper)
    mine = shards.rows(placement)
    shapes = program.global_batch(built.data.batch(0, mine), placement)
    abstract = jax.eval_shape(lambda s: s, state)
    made = program.build(step, abstract, shapes, placement, settings.steps_per_call)
    module = hlo.parse(made.compiled.as_text())
    # One exchange may be of many arrays; gloo sends them one by one.
    said = [
        [len(one.shapes), sum(hlo.size(*shape) for shape in one.shapes)]
        for part in module.computations.values()
        for one in part.instructions.values()
        if one.opcode.removesuffix("-start") in collectives.KINDS
    ]
    at = 0
    for line in sys.stdin:
        steps = json.loads(line)["steps"]
        begin, done = time.perf_counter(), 0
        while done < steps:
            n = min(made.capacity, steps - done)
            rows = [built.data.batch(at + i, mine) for i in range(n)]
            batches = program.stack(rows, made.capacity, placement)
            state, metrics = made.run(state, batches, np.int32(n))
            done, at = done + n, at + n
        total, weight = jax.device_get(metrics["loss"])
        seconds = time.perf_counter() - begin
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        answer = {"seconds": seconds, "memory": memory, "loss": float(total[n - 1] / weight[n - 1]),
                  "collectives": said, "capacity": made.capacity}  # fmt: skip
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
