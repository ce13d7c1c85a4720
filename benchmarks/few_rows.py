"""Ways to pass a few rows through the dense layers of GPT-2 124M on a CPU, float32 and smaller.

    python benchmarks/few_rows.py --rows 1 8

Each way runs the 48 matrices of all blocks (attention itself and the output layer left out) in one
program; the ways take turns, and the fastest of `--rounds` counts. The error is the largest of the
outputs, whose size is about 1.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

from aigc_jax.cli import wire

wire.start_jax()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

WIDTH, LAYERS = 768, 12
SHAPES = ((WIDTH, 3 * WIDTH), (WIDTH, WIDTH), (WIDTH, 4 * WIDTH), (4 * WIDTH, WIDTH))
Product = Callable[[jax.Array, Any], jax.Array]


def product(x: jax.Array, kernel_CF: jax.Array) -> jax.Array:
    """The plain product."""
    return x @ kernel_CF


def turned(x: jax.Array, kernel_FC: jax.Array) -> jax.Array:
    """A fused sum of products over the rows of the transposed matrix."""
    return (kernel_FC[None].astype(jnp.float32) * x[:, None]).sum(-1)


def turned_int8(x: jax.Array, weights: tuple[jax.Array, jax.Array]) -> jax.Array:
    """The same with int8 and a scale for each output."""
    kernel_FC, scale_F = weights
    return turned(x, kernel_FC) * scale_F[None]


def turned_int8_by_row(x: jax.Array, weights: tuple[jax.Array, jax.Array]) -> jax.Array:
    """One fused sum for each row."""
    kernel_FC, scale_F = weights
    whole = kernel_FC.astype(jnp.float32)
    return jnp.stack([(whole * row[None]).sum(-1) for row in x]) * scale_F[None]


def quantized(kernel_FC: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Symmetric int8, one scale a row."""
    scale = jnp.abs(kernel_FC).max(1) / 127
    return jnp.round(kernel_FC / scale[:, None]).astype(jnp.int8), scale


def forward(x: jax.Array, layers: list[Any], way: Product) -> jax.Array:
    """All blocks, with a fence between products as they have in the model."""
    fence = jax.lax.optimization_barrier
    for qkv, out, hidden, back in layers:
        h = fence(way(x, qkv)[:, :WIDTH])
        h = fence(way(h, out) + x)
        x = fence(way(fence(jnp.tanh(way(h, hidden))), back) + h)
    return x


def main() -> None:
    """Prints one table for each number of rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    key = jax.random.key(0)
    plain = [
        [0.02 * jax.random.normal(jax.random.fold_in(key, 4 * i + j), shape)
         for j, shape in enumerate(SHAPES)]
        for i in range(LAYERS)
    ]  # fmt: skip
    transposed = [[jnp.array(kernel.T) for kernel in layer] for layer in plain]
    halves = [[kernel.astype(jnp.bfloat16) for kernel in layer] for layer in transposed]
    bytes_ = [[quantized(kernel) for kernel in layer] for layer in transposed]
    ways: dict[str, tuple[Product, Any]] = {
        "float32, product": (product, plain),
        "float32, turned": (turned, transposed),
        "bfloat16 stored, turned": (turned, halves),
        "int8 stored, turned": (turned_int8, bytes_),
        "int8 stored, turned, row by row": (turned_int8_by_row, bytes_),
    }
    for rows in args.rows:
        x = jax.random.normal(key, (rows, WIDTH))
        programs = {
            name: jax.jit(lambda x, w, way=way: forward(x, w, way)).lower(x, w).compile()
            for name, (way, w) in ways.items()
        }
        seconds = {name: float("inf") for name in ways}
        for _ in range(args.rounds):
            for name, (_, w) in ways.items():
                begin = time.perf_counter()
                programs[name](x, w).block_until_ready()
                seconds[name] = min(seconds[name], time.perf_counter() - begin)
        exact = np.asarray(programs["float32, product"](x, plain))
        print(f"\n| {rows} rows | ms | error |\n|---|---|---|")
        for name, (_, w) in ways.items():
            error = np.abs(np.asarray(programs[name](x, w)) - exact).max()
            print(f"| {name} | {1e3 * seconds[name]:.1f} | {error:.1e} |")


if __name__ == "__main__":
    main()
