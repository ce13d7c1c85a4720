"""What each rematerialization policy remembers, and what it costs: one step's gradient.

    python benchmarks/remat.py --layers 6 --width 256 --time 256

Temporary bytes are those that the compiler states for the compiled program; FLOPs count what is
computed again. The policies take turns; the fastest of `--rounds` counts, and 0 only compiles.
"""

import argparse
import time
from typing import Any

from aigc_jax.cli import wire

wire.start_jax()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from aigc_jax.core.flops import count_flops  # noqa: E402
from aigc_jax.models.transformer import Transformer  # noqa: E402

POLICIES = ("none", "dots", "dots_no_batch", "offload", "full")


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--time", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--attention", default="plain", help="or blockwise, auto")
    parser.add_argument("--unrolled", action="store_true", help="layers that are not scanned")
    o = parser.parse_args()
    tokens = jnp.zeros((o.batch, o.time), jnp.int32)
    programs, flops = {}, {}
    params: Any = None
    for policy in POLICIES:
        chosen: dict[str, Any] = {"remat": policy, "attention": o.attention}
        network = Transformer(
            256, o.time, layers=o.layers, width=o.width, heads=o.heads, scan=not o.unrolled,
            **chosen,
        )  # fmt: skip
        if params is None:
            params = jax.jit(network.init)(jax.random.key(0), tokens)["params"]

        def loss(params: Any, network: Transformer = network) -> jax.Array:
            logits_BTV, _ = network.apply({"params": params}, tokens)
            return (jax.nn.logsumexp(logits_BTV, -1) - logits_BTV[..., 0]).mean()

        run = jax.value_and_grad(loss)
        flops[policy] = count_flops(run, params)
        programs[policy] = jax.jit(run).lower(params).compile()
    exact: Any = None
    best = dict.fromkeys(POLICIES, float("nan"))
    gap = dict.fromkeys(POLICIES, float("nan"))
    for turn in range(o.rounds):
        for policy in POLICIES:
            begin = time.perf_counter()
            found = jax.block_until_ready(programs[policy](params))
            best[policy] = float(np.fmin(best[policy], 1e3 * (time.perf_counter() - begin)))
            if not turn:
                exact = found if policy == "none" else exact
                gap[policy] = max(
                    float(jnp.abs(a - b).max() / jnp.abs(b).max())
                    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True)
                )
    print("| remat | temporary MiB | FLOPs | ms | largest difference |\n|---|---|---|---|---|")
    for policy in POLICIES:
        stated: Any = programs[policy].memory_analysis()
        size = stated.temp_size_in_bytes / 2**20
        share = flops[policy] / flops["none"]
        print(f"| `{policy}` | {size:.1f} | {share:.2f} | {best[policy]:.0f} | {gap[policy]:.0e} |")


if __name__ == "__main__":
    main()
