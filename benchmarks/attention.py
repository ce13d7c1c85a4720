"""Attention by blocks against all weights at once: forward and backward of one layer on a CPU.

    python benchmarks/attention.py --plot docs/images/attention_memory.svg

The layer is the model's own (`layers.Attention`, projections included). Temporary bytes are those
that the compiler states for the compiled program. The forms take turns; the fastest of `--rounds`
counts. `--plain-most` is the longest row that is timed the plain way; longer ones are compiled for
their bytes alone.
"""

import argparse
import time
from functools import partial
from typing import Any

from aigc_jax.cli import wire

wire.start_jax()

import flax.linen as nn  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

from aigc_jax.models.attention import attention_mask  # noqa: E402
from aigc_jax.models.layers import Attention, View  # noqa: E402


def program(form: str, length: int, block: int, o: argparse.Namespace) -> tuple[Any, Any]:
    """Returns one layer's compiled forward and backward pass, and what it takes."""
    layer = Attention(
        heads=o.heads, kv_heads=o.heads, width=o.width, qk_norm=None, rotate=None, cap=0.0,
        dense=partial(nn.Dense, use_bias=False, dtype=o.dtype), scale=(o.width // o.heads) ** -0.5,
        dropout=0.0, std=0.02, out_std=0.02, form=form, block=block,
    )  # fmt: skip
    key = jax.random.key(0)
    x_BTC = jax.random.normal(key, (o.batch, length, o.width), o.dtype)

    def view() -> View:  # inside the program: a mask is no input
        places = jnp.arange(length, dtype=jnp.int32)[None]
        mask = attention_mask(places, places) if form == "plain" else None
        return View(mask, jnp.broadcast_to(places, (o.batch, length)), None, jnp.int32(0))

    params = jax.jit(lambda: layer.init(key, x_BTC, view(), None))()

    def loss(params: Any, x: jax.Array) -> jax.Array:
        return jnp.square(layer.apply(params, x, view(), None)[0].astype(jnp.float32)).sum()

    return jax.jit(jax.grad(loss, (0, 1))).lower(params, x_BTC).compile(), (params, x_BTC)


def plot(rows: list[tuple[int, dict[str, tuple[float, float]]]], path: str) -> None:
    """Draws temporary bytes over the length of a row."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5, 3.2), layout="constrained")
    for name in rows[0][1]:
        axes.loglog([n for n, _ in rows], [found[name][0] for _, found in rows], "o-", label=name)
    axes.set(xlabel="tokens in a row", ylabel="temporary MiB")
    axes.set_xticks([n for n, _ in rows], [f"{n:,}" for n, _ in rows], minor=False)
    axes.set_xticks([], minor=True)
    axes.legend()
    figure.savefig(path)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, nargs="+", default=[256, 512, 1024, 2048, 4096, 8192])
    parser.add_argument("--blocks", type=int, nargs="+", default=[256])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--plain-most", type=int, default=4096)
    parser.add_argument("--plot", default="", help="an SVG of the bytes")
    o = parser.parse_args()
    names = ["plain", *(f"blocks of {block}" for block in o.blocks)]
    print("| T |" + "".join(f" {name}, MiB | ms |" for name in names))
    print("|---|" + "---|---|" * len(names))
    rows = []
    for length in o.times:
        made = [program("plain", length, 0, o)]
        made += [program("blockwise", length, block, o) for block in o.blocks]
        timed = [i for i in range(len(made)) if i or length <= o.plain_most]
        best = [float("nan") if i not in timed else float("inf") for i in range(len(made))]
        for _ in range(o.rounds):
            for i in timed:
                begin = time.perf_counter()
                jax.block_until_ready(made[i][0](*made[i][1]))
                best[i] = min(best[i], 1e3 * (time.perf_counter() - begin))
        sizes = [each[0].memory_analysis().temp_size_in_bytes / 2**20 for each in made]
        cells = list(zip(sizes, best, strict=True))
        rows.append((length, dict(zip(names, cells, strict=True))))
        line = "".join(f" {size:.1f} | {ms:.1f} |" for size, ms in cells)
        print(f"| {length:,} |{line}", flush=True)
    if o.plot:
        plot(rows, o.plot)


if __name__ == "__main__":
    main()
