"""Our step, as the loop runs it; obeys lines of JSON on standard input like `worker_torch.py`."""

import json
import resource
import sys
import time

from aigc_jax.cli import wire


def main() -> None:
    """Builds the model as told by the first line, then runs steps as asked."""
    told = json.loads(sys.stdin.readline())
    wire.start_jax()
    import jax
    import numpy as np

    from aigc_jax.core import optim
    from aigc_jax.core.flops import count_flops
    from aigc_jax.data.base import ArraySpec, Spec
    from aigc_jax.tasks import lm
    from aigc_jax.train import guard, peak, program, sharding

    shape = (told["batch"], told["context"])
    kinds = {"inputs": "int32", "targets": "int32", "mask": "float32"}
    spec = Spec(
        {name: ArraySpec(shape, kind) for name, kind in kinds.items()},
        {"vocab_size": told["vocab"], "context": told["context"],
         "token_bytes": np.ones(told["vocab"], np.int32)},
    )  # fmt: skip
    model = {"name": "transformer", **told["model"], "dtype": told["dtype"]}
    model |= {name: told[name] for name in ("layers", "heads", "width")}
    task = lm.make(spec, optim.make(2000), model)
    placement = sharding.make()
    init = guard.guarded_init(task.init)
    step = guard.guarded_step(task.step, policy="stop", spike=0.0)
    numbers = {**optim.HYPER, **lm.HYPER, "warmup": 100.0, "b2": 0.99, "weight_decay": 0.1,
               "clip_norm": 1.0}  # fmt: skip
    hyper = {name: np.float32(value) for name, value in numbers.items()}
    state = sharding.create(placement, init, jax.random.key(0), hyper)
    shapes = {n: jax.ShapeDtypeStruct(a.shape, a.dtype) for n, a in spec.arrays.items()}
    built = program.build(step, jax.eval_shape(lambda s: s, state), shapes, placement, 0)
    flops, best = count_flops(step, state, shapes), peak.Peak()
    rng = np.random.default_rng(0)
    text = rng.integers(0, told["vocab"], 100_000).astype(np.int32)
    offsets = np.arange(told["context"] + 1)

    def batch() -> dict[str, np.ndarray]:
        start = rng.integers(0, len(text) - told["context"] - 1, told["batch"])
        rows = text[start[:, None] + offsets]
        return {"inputs": rows[:, :-1], "targets": rows[:, 1:], "mask": np.ones(shape, np.float32)}

    for line in sys.stdin:
        steps = json.loads(line)["steps"]
        begin = time.perf_counter()
        done = 0
        while done < steps:
            n = min(built.capacity, steps - done)
            stacked = program.stack([batch() for _ in range(n)], built.capacity, placement)
            state, metrics = built.run(state, stacked, np.int32(n))
            done += n
        total, weight = jax.device_get(metrics["loss"])
        seconds = time.perf_counter() - begin
        best.measure()
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        answer = {"seconds": seconds, "loss": float(total[n - 1] / weight[n - 1]),
                  "memory": memory, "flops": flops, "peak": best.value}  # fmt: skip
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
