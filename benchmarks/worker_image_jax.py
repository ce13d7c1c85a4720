"""A recipe's step with its own data, as the loop runs both; obeys lines of JSON."""

import json
import resource
import sys
import time

from aigc_jax.cli import wire


def main() -> None:
    """Builds the recipe named by the first line, then takes steps as asked."""
    told = json.loads(sys.stdin.readline())
    wire.start_jax()
    import jax
    import numpy as np

    from aigc_jax.core import config
    from aigc_jax.data.prefetch import Prefetcher
    from aigc_jax.train import guard, program, sharding

    built = wire.parts(config.load(told["recipe"], told["settings"]))
    init = guard.guarded_init(built.task.init)
    step = guard.guarded_step(built.task.step, policy="stop", spike=0.0)
    hyper = {name: np.float32(value) for name, value in built.config["hyper"].items()}
    state = sharding.create(built.placement, init, jax.random.key(0), hyper)
    first = built.data.batch(0, (0, 1))
    shapes = {n: jax.ShapeDtypeStruct(x.shape, x.dtype) for n, x in first.items()}
    made = program.build(step, jax.eval_shape(lambda s: s, state), shapes, built.placement, 0)
    at = 0
    source = Prefetcher(lambda i: built.data.batch(i, (0, 1)), 0, depth=2 * made.capacity)
    with source as batches:
        for line in sys.stdin:
            steps, done = json.loads(line)["steps"], 0
            begin = time.perf_counter()
            while done < steps:
                n = min(made.capacity, steps - done)
                rows = [batches.get(at + i) for i in range(n)]
                stacked = program.stack(rows, made.capacity, built.placement)
                state, metrics = made.run(state, stacked, np.int32(n))
                done, at = done + n, at + n
            total, weight = jax.device_get(metrics["loss"])
            seconds = time.perf_counter() - begin
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            loss = float(total[n - 1] / weight[n - 1])
            print(json.dumps({"seconds": seconds, "loss": loss, "memory": memory}), flush=True)


if __name__ == "__main__":
    main()
