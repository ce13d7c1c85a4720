"""What a device can do at best: published for accelerators, measured for CPUs."""

import functools
import time
from typing import Any

import jax
import jax.numpy as jnp

from aigc_jax.core.devices import DEVICES

_SIZE = 1536  # of the square matrices that a CPU multiplies

# Dense bf16 FLOP/s of one device as JAX sees it: what can be planned for, and two more (NVIDIA's
# data sheet of the L4, without sparsity; another name of TPU v5p, after "TPU v5 lite").
PUBLISHED = {device.kind: device.flops for device in DEVICES.values()} | {
    "L4": 121e12,
    "TPU v5": 459e12,
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
            self._product, best = _measured(_SIZE)
            for _ in range(1 if best else 4):  # an earlier run of this process has found most
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
            best = _measured(_SIZE)[1]
            best[:] = [max(speed, *best)] if best else [speed]
            self.value = best[0]


@functools.cache
def _measured(size: int) -> tuple[Any, list[float]]:
    """The product of two matrices, compiled, and the best speed so far where there is one."""
    x = jnp.ones((size, size), jnp.float32)
    compiled = jax.jit(lambda a: a @ a).lower(x).compile()
    return (lambda: compiled(x).block_until_ready()), []
