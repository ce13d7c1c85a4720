"""Which mesh, rematerialization and micro-batch fit a device's memory, and which is fastest."""

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

from aigc_jax.core.devices import Device
from aigc_jax.train import estimate, formulas
from aigc_jax.train.formulas import Plan, Shape

ROOM = 0.9  # of a device's memory; the rest is for code, fragments and what is on its way
_MOST_TENSOR = 16
_MOST_SEQUENCE = 8
_MOST_TURNS = 64


class Proposal(NamedTuple):
    """A way to do a step. bytes: of each device, by formulas.memory. time: of a step."""

    plan: Plan
    bytes: float
    time: estimate.Estimate


def scanned(plan: Plan) -> bool:
    """Whether a plan goes with scanned layers only: what it saves, unrolled ones may keep."""
    return plan.of("fsdp") > 1 or plan.remat != "none"


def weigh(shape: Shape, plan: Plan, device: Device) -> Proposal:
    """Works out what a plan takes on a device, on paper; see `scanned`."""
    shape = shape._replace(scan=shape.scan or scanned(plan))
    work, own = formulas.flops(shape, plan)
    time = estimate.step(
        device,
        shape.narrow,
        work / plan.devices,
        own / plan.devices,
        formulas.moved(shape, plan),
        formulas.collectives(shape, plan),
    )
    return Proposal(plan, sum(formulas.memory(shape, plan).values()), time)


def search(
    shape: Shape, rows: int, accumulate: int, devices: int, device: Device
) -> list[Proposal]:
    """Returns the plans that fit, the fastest first; or none, see `smallest`.

    Of equals, the one that changes least: fewer axes, then as many rows on a device at once as the
    recipe has.

    Args:
      rows: of a global batch. accumulate: micro-batches of the recipe, as it is for one device.
        Every number up to 64 that divides the rows is tried: none changes the gradient.
    """
    found = [p for p in _all(shape, rows, accumulate, devices, device) if _fits(p, device)]
    return sorted(found, key=lambda one: _order(one, accumulate))


def smallest(
    shape: Shape, rows: int, accumulate: int, devices: int, device: Device
) -> Proposal | None:
    """Returns the plan that takes least memory; None where no mesh divides the shape."""
    found = list(_all(shape, rows, accumulate, devices, device))
    return min(found, key=lambda p: p.bytes, default=None)


def _fits(one: Proposal, device: Device) -> bool:
    return one.bytes <= ROOM * device.memory


def _order(one: Proposal, accumulate: int) -> tuple[float, ...]:
    axes = sum(size > 1 for size in one.plan.mesh.values())
    inner = one.plan.of("tensor") * one.plan.of("sequence") * one.plan.of("fsdp")
    seconds = float(f"{one.time.seconds:.3g}")  # on paper no more is known
    # Over so many devices, a micro-batch of the recipe would be gone through in so many parts.
    split = one.plan.of("data") * one.plan.of("fsdp") * one.plan.of("sequence")
    other = abs(math.log2(one.plan.accumulate / max(1.0, accumulate / split)))
    return seconds, axes, other, inner, formulas.REMAT.index(one.plan.remat)


def _all(
    shape: Shape, rows: int, accumulate: int, devices: int, device: Device
) -> Iterator[Proposal]:
    turns = _divisors(rows, max(accumulate, _MOST_TURNS))
    for mesh, remat, times in itertools.product(
        meshes(devices, min(device.group, _MOST_TENSOR)), formulas.REMAT, turns
    ):
        plan = Plan(mesh, rows, times, remat)
        if formulas.fits(shape, plan):
            yield weigh(shape, plan, device)


def meshes(devices: int, most_tensor: int) -> Iterator[dict[str, int]]:
    """Yields every mesh of so many devices, with at most so many on the axis "tensor"."""
    for tensor in _divisors(devices, most_tensor):
        for sequence in _divisors(devices // tensor, _MOST_SEQUENCE):
            rest = devices // tensor // sequence
            for fsdp in _divisors(rest, rest):
                yield {"data": rest // fsdp, "fsdp": fsdp, "sequence": sequence, "tensor": tensor}


def _divisors(number: int, most: int) -> list[int]:
    return [n for n in range(1, min(number, most) + 1) if number % n == 0]
