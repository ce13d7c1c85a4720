"""What a device can do at best: published for accelerators, measured for CPUs."""

import time
from typing import Any

import jax
import jax.numpy as jnp

_SIZE = 1536  # of the square matrices that a CPU multiplies

# Dense bf16 FLOP/s of one device as JAX sees it, from the vendors' data sheets: NVIDIA A100, H100
# SXM, H200 and L4 (without sparsity); Google Cloud's pages on TPU v4, v5e, v5p and v6e.
PUBLISHED = {
    "A100": 312e12,
    "H100": 989e12,
    "H200": 989e12,
    "L4": 121e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5p": 459e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
}


class Peak:
    """The peak of all devices together.

    Attributes:
      source: where the figure is from; "" where there is none.
      value: FLOP/s, or None.
    """

    def __init__(self) -> None:
        device = jax.devices()[0]
        self.value: float | None = None
        self.source = ""
        self._product: Any = None
        if device.platform == "cpu":
            self.source = "measured float32 matrix product"
            x = jnp.ones((_SIZE, _SIZE), jnp.float32)
            compiled = jax.jit(lambda a: a @ a).lower(x).compile()
            self._product = lambda: compiled(x).block_until_ready()
            for _ in range(4):
                self.measure()
            return
        for name, peak in PUBLISHED.items():
            if name in device.device_kind:
                self.value = peak * jax.device_count()
                self.source = f"{name}, bf16, data sheet"

    def measure(self) -> None:
        """Times one product where the figure is a measured one, and keeps the best so far.

        A shared machine is slow at times; called now and then, the best comes near the truth.
        """
        if self._product is not None:
            start = time.perf_counter()
            self._product()
            speed = 2 * _SIZE**3 / (time.perf_counter() - start)
            self.value = max(speed, self.value or 0.0)
