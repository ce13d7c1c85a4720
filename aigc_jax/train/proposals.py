"""Which mesh, rematerialization and micro-batch fit a device's memory, and which is fastest."""

import itertools
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


def weigh(shape: Shape, plan: Plan, device: Device) -> Proposal:
    """Works out what a plan takes on a device, on paper."""
    work, own = formulas.flops(shape, plan)
    time = estimate.step(
        device,
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

    Of equals, the one that changes least: fewer axes, then fewer parts of a batch.

    Args:
      rows: of a global batch. accumulate: the least micro-batches; twice as many, and so on, are
        tried too.
    """
    found = [p for p in _all(shape, rows, accumulate, devices, device) if _fits(p, device)]
    return sorted(found, key=_order)


def smallest(
    shape: Shape, rows: int, accumulate: int, devices: int, device: Device
) -> Proposal | None:
    """Returns the plan that takes least memory; None where no mesh divides the shape."""
    found = list(_all(shape, rows, accumulate, devices, device))
    return min(found, key=lambda p: p.bytes, default=None)


def _fits(one: Proposal, device: Device) -> bool:
    return one.bytes <= ROOM * device.memory


def _order(one: Proposal) -> tuple[float, ...]:
    axes = sum(size > 1 for size in one.plan.mesh.values())
    inner = one.plan.of("tensor") * one.plan.of("sequence") * one.plan.of("fsdp")
    seconds = float(f"{one.time.seconds:.3g}")  # on paper no more is known
    return seconds, axes, one.plan.accumulate, inner, formulas.REMAT.index(one.plan.remat)


def _all(
    shape: Shape, rows: int, accumulate: int, devices: int, device: Device
) -> Iterator[Proposal]:
    turns = [accumulate << i for i in range(8) if accumulate << i <= max(accumulate, _MOST_TURNS)]
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
