"""The least time that a step can take on a device, from its published figures: a roofline.

(Williams, Waterman & Patterson 2009, doi:10.1145/1498765.1498785.) Nothing here was measured. What
is left out (kernels that do not reach the peak, latencies, hosts that wait for data) only adds.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

from aigc_jax.core.devices import Device
from aigc_jax.errors import UserError
from aigc_jax.train.collectives import Collective

# What is exchanged over these can go on while a layer computes: gradients of the layer behind,
# parameters of the layer ahead. The others stand between two products that wait for them.
HIDDEN = ("data", "fsdp")


class Estimate(NamedTuple):
    """Seconds of a step, and what they are made of.

    Attributes:
      products: of the products at the device's peak. memory: of reading and writing its memory.
      hidden: of exchanges that go on meanwhile. exposed: of those that products wait for.
      seconds: max(products, memory, hidden) + exposed.
      mfu: the share of the peak that a model's own FLOPs are, in that time.
      bound: what the step is bound by: "products", "memory", "data" (or another axis).
    """

    products: float
    memory: float
    hidden: float
    exposed: float
    seconds: float
    mfu: float
    bound: str


def step(
    device: Device,
    width: int,
    flops: float,
    model_flops: float,
    moved: float,
    collectives: Iterable[Collective],
) -> Estimate:
    """Estimates a step.

    Args:
      width: bytes of a number in products, 2 or 4, which the device's peak depends on.
      flops: of one device, with what rematerialization computes again. model_flops: without.
      moved: bytes that one device reads from and writes to its memory.
      collectives: of a step; see `collectives.find`.
    """
    spent: dict[str, float] = {}
    hidden = exposed = 0.0
    for one in collectives:
        lasts = seconds(one, device)
        axis = "+".join(one.axes)
        spent[axis] = spent.get(axis, 0.0) + lasts
        if all(name in HIDDEN for name in one.axes):
            hidden += lasts
        else:
            exposed += lasts
    peak = device.peak(width)
    products, memory = flops / peak, moved / device.bandwidth
    total = max(products, memory, hidden) + exposed
    worst = {"products": products, "memory": memory, **spent}
    bound = max(worst, key=lambda name: worst[name])
    return Estimate(products, memory, hidden, exposed, total, model_flops / peak / total, bound)


def seconds(one: Collective, device: Device) -> float:
    """Returns the time of a collective: rings within a group of fast links, and rings of groups.

    With V bytes in k groups of l devices each, a gather takes V (l-1)/l / link within and
    V (k-1)/k / (l across) between them, one while the other goes on; a sum takes twice as long.
    """
    near = len({i for i in one.group if i // device.group == one.group[0] // device.group})
    groups = len({i // device.group for i in one.group})
    once = one.bytes * one.times
    if one.kind == "collective-permute":
        return once / (device.across if groups > 1 else device.link)
    passes = 2 if one.kind == "all-reduce" else 1
    within = once * (near - 1) / near / device.link
    between = once * (groups - 1) / groups / (near * device.across)
    return passes * max(within, between)


def tokens(text: str) -> float:
    """Reads a budget: 300B, 1.5T, 2e9, 1000000.

    Raises:
      UserError: it is no positive number.
    """
    factor = {"k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}.get(text[-1:].lower(), 1.0)
    try:
        number = float(text[:-1] if factor > 1 else text) * factor
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise UserError(f"--tokens={text}: expected a positive number, as 300B, 1.5T or 2e9.")
    return number
