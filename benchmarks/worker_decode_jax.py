"""Our decoding, as `aigc sample` runs it; obeys lines of JSON like `worker_decode_torch.py`."""

import json
import resource
import sys
import time
from types import SimpleNamespace

from aigc_jax.cli import wire


def main() -> None:
    """Builds the model as told by the first line; a step is one batch of texts."""
    told = json.loads(sys.stdin.readline())
    wire.start_jax()
    import jax
    import jax.numpy as jnp
    import numpy as np

    from aigc_jax.core import tree
    from aigc_jax.generate.sampler import Sampler
    from aigc_jax.models.transformer import Transformer

    network = Transformer(
        told["vocab"], told["context"], layers=told["layers"], heads=told["heads"],
        width=told["width"], bias=True, mlp="gelu_tanh", dtype=told["dtype"],
        param_dtype=told["dtype"],
    )  # fmt: skip
    tokens = jnp.zeros((1, 2), jnp.int32)
    params = jax.jit(network.init)(jax.random.key(0), tokens)["params"]
    weights = SimpleNamespace(params={"model": params})
    sample, rng = Sampler(network), np.random.default_rng(0)
    for line in sys.stdin:
        steps = json.loads(line)["steps"]
        begin = time.perf_counter()
        for _ in range(steps):
            prompt = rng.integers(0, told["vocab"], (told["batch"], told["prompt"]))
            text = sample(
                weights, jax.random.key(0), prompt=prompt, count=told["tokens"], temperature=0.0
            )
        seconds = time.perf_counter() - begin
        assert text.shape == (told["batch"], told["prompt"] + told["tokens"])
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        answer = {"seconds": seconds, "memory": memory, "weights": tree.size_bytes(params)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
