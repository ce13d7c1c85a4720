"""A transformer's step in closed form: bytes, FLOPs and collectives of each device, on paper.

For shapes and meshes that are too large to compile here. Each term stands for one that the compiled
program has; docs/scaling.md holds the two against each other, and gives the sources:

  state       Rajbhandari et al. 2020 (arXiv:1910.02054), section 3.1
  activations after Korthikanti et al. 2022 (arXiv:2205.05198), section 4: what JAX hands from the
              forward pass of a scanned block of `models.layers` to its backward pass, array by
              array; without dropout
  sums        Shoeybi et al. 2019 (arXiv:1909.08053), section 3: two in each pass of a block
  FLOPs       Chowdhery et al. 2022 (arXiv:2204.02311), appendix B

Letters: C width, H inner width of the MLP, V vocabulary, T tokens of a row, L layers.
"""

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from aigc_jax.train.collectives import Collective, merged

AXES = ("data", "fsdp", "sequence", "tensor")  # as `sharding.AXES`, outermost first
REMAT = ("none", "dots_no_batch", "full")
# Arrays of H numbers a token that an MLP hands from one pass to the other, by activation.
INNER = {"gelu": 4.0, "gelu_tanh": 6.0, "swiglu": 6.0, "relu2": 2.0}


class Shape(NamedTuple):
    """What of a transformer and its task counts here.

    Attributes:
      keys: width of all keys of a token, C where every head has its own. hidden: H. kernels: how
        many [C, H] ones an MLP has: 2, or 3 where it is gated. positions: rows of a learned table.
      narrow: bytes of a number in products: 2 or 4. slots: numbers that are kept for a parameter
        besides itself: 2 of Adam, and 1 of a moving average.
      inner: arrays of H numbers a token that the MLP hands to its backward pass, with the one that
        its last product reads; see INNER.
      chunk: vocabulary at once in the loss; 0 for all. long: whether [T, T] is never made.
      qk_norm: whether queries and keys are normalized. cap: whether attention's logits are capped.
      scan: whether the layers are one scanned block.
    """

    layers: int
    width: int
    heads: int
    keys: int
    hidden: int
    kernels: int
    vocabulary: int
    context: int
    positions: int
    tied: bool
    narrow: int
    slots: int
    chunk: int
    long: bool
    inner: float = 6.0
    qk_norm: bool = False
    cap: bool = False
    scan: bool = True

    @property
    def block(self) -> int:
        """Parameters of a block's matrices."""
        projections = self.width * (2 * self.width + 2 * self.keys)
        return projections + self.kernels * self.width * self.hidden

    @property
    def table(self) -> int:
        """Parameters of the embedding, and of an output layer of its own."""
        return self.vocabulary * self.width * (1 if self.tied else 2)

    @property
    def small(self) -> int:
        """Parameters that every device holds whole: scales of norms, and learned positions."""
        return self.width * (2 * self.layers + 1 + self.positions)

    @property
    def parameters(self) -> int:
        """All parameters; biases are left out."""
        return self.layers * self.block + self.table + self.small


class Plan(NamedTuple):
    """How a step is done. mesh: sizes by axis. rows: of a global batch. remat: of REMAT."""

    mesh: Mapping[str, int]
    rows: int
    accumulate: int = 1
    remat: str = "none"

    def of(self, axis: str) -> int:
        """The size of an axis."""
        return self.mesh.get(axis, 1)

    @property
    def devices(self) -> int:
        """How many there are."""
        return math.prod(self.mesh.values())

    def places(self, shape: Shape) -> float:
        """Tokens of a micro-batch on one device."""
        split = self.of("data") * self.of("fsdp") * self.of("sequence")
        return self.rows * shape.context / self.accumulate / split


def fits(shape: Shape, plan: Plan) -> bool:
    """Whether the mesh divides the rows, the heads, the inner widths and the tokens."""
    tensor, fsdp = plan.of("tensor"), plan.of("fsdp")
    split = plan.of("data") * fsdp
    heads = shape.heads * shape.keys // shape.width
    return (
        plan.rows % plan.accumulate == 0
        and plan.rows // plan.accumulate % split == 0
        and heads % tensor == 0
        and shape.hidden % (tensor * fsdp) == 0
        and shape.width % (tensor * fsdp) == 0
        and shape.context % plan.of("sequence") == 0
    )


def flops(shape: Shape, plan: Plan) -> tuple[float, float]:
    """Returns the FLOPs of a step, of all devices: with what is computed again, and without.

    Full rows of attention are counted, as is customary; the mask leaves half of them out.
    """
    tokens = plan.rows * shape.context
    attend = 4 * shape.context * shape.width
    forward = shape.layers * (2 * shape.block + attend) + 2 * shape.vocabulary * shape.width
    again = 0
    if plan.remat == "full":
        again = shape.layers * (2 * shape.block + attend)
    elif plan.remat == "dots_no_batch" and not shape.long:
        again = shape.layers * attend
    if shape.long:  # its backward pass makes the weights again, whatever is kept
        again += shape.layers * attend // 2
    if shape.chunk:
        again += 2 * shape.vocabulary * shape.width
    return float(tokens * (3 * forward + again)), float(tokens * 3 * forward)


def memory(shape: Shape, plan: Plan) -> dict[str, float]:
    """Returns the bytes of one device: state, gradients, activations, logits, gathered weights."""
    split, tensor = plan.of("fsdp") * plan.of("tensor"), plan.of("tensor")
    matrices = (shape.layers * shape.block + shape.table) / split
    held = 4 * (matrices + shape.small)
    places, narrow = plan.places(shape), shape.narrow
    # A norm works in float32 and hands on the centred input, that squared again by its derivative,
    # and the quotient; in the narrow type its output. Attention: queries, keys, values, what comes
    # of them, and the same as rows for the product that reads it.
    norms: float = 2 * shape.width * (3 * 4 + narrow)
    if shape.qk_norm:  # the same three; its output is one of `heads` in any case
        norms += (shape.width + shape.keys) * 3 * 4 / tensor
    heads = (2 * shape.width + 2 * shape.keys + (shape.width if shape.long else 0)) / tensor
    again = (shape.kernels - 2) * shape.width  # a second product reads its own copy of the rows
    everything = places * (norms + narrow * (heads + again + shape.inner * shape.hidden / tensor))
    if not shape.long:
        rows = places / shape.context
        weights = rows * shape.heads / tensor * shape.context**2
        everything += weights * (4 + narrow + (2 * 4 if shape.cap else 0))
    # What dense layers gave that the backward pass reads, the block's input, and what `blockwise`
    # gave.
    given = (shape.width + 2 * shape.keys + (shape.kernels - 1) * shape.hidden) / tensor
    products = 2 * shape.width + given + (shape.width / tensor if shape.long else 0)
    kept = {
        "none": everything,
        "dots_no_batch": places * narrow * products,
        "full": places * narrow * shape.width,
    }[plan.remat]
    wide = (shape.chunk or shape.vocabulary / tensor) * places * 4
    return {
        "state": held * (1 + shape.slots),
        "gradients": held * (2 if plan.accumulate > 1 else 1),
        "activations": shape.layers * kept + everything,
        "logits": 2 * wide,
        "gathered": narrow * _copied(shape, plan) / tensor,
    }


def _copied(shape: Shape, plan: Plan) -> float:
    """Numbers of the parameters that stand beside the state: gathered, narrowed, or sliced.

    Scanned layers have those of the layer at work, and of its gradient. Unrolled ones give the
    compiler no order: XLA on CPUs (jaxlib 0.10.2) gathers all at the beginning of a step, and holds
    them up to twice more where it computes again or accumulates, which is not counted.
    """
    if shape.scan:
        return 2 * shape.block + shape.table
    whole = shape.layers * shape.block + shape.table
    return whole if plan.of("fsdp") > 1 or shape.narrow < 4 else 0


def moved(shape: Shape, plan: Plan) -> float:
    """Returns the least bytes that one device reads and writes in a step.

    The state once each way; in every micro-batch the weights for three products each, and all
    activations written once and read once: those that are made again too.
    """
    found = memory(shape, plan._replace(remat="none"))
    weights = 3 * shape.narrow * (shape.layers * shape.block + shape.table) / plan.of("tensor")
    busy = 2 * (found["activations"] + found["logits"])
    return 2 * (found["state"] + found["gradients"]) + plan.accumulate * (weights + busy)


def collectives(shape: Shape, plan: Plan) -> list[Collective]:
    """Returns what the devices exchange in a step."""
    rows = []
    for kind, axes, size, count in _exchanges(shape, plan):
        axes = tuple(axis for axis in axes if plan.of(axis) > 1)
        if axes and size:
            group = _group(plan, axes)
            rows.append(Collective(kind, axes, len(group), group, size, count))
    return merged(rows)


def _exchanges(shape: Shape, plan: Plan) -> Iterator[tuple[str, tuple[str, ...], float, int]]:
    turns, layers, narrow = plan.accumulate, plan.accumulate * shape.layers, shape.narrow
    tensor, fsdp = plan.of("tensor"), plan.of("fsdp")
    places = plan.places(shape)
    block, table = narrow * shape.block / tensor, shape.vocabulary * shape.width / tensor
    copies = ("data", "sequence")
    # Parameters: gathered for each pass, and their gradients scattered; the parts then summed.
    yield "all-gather", ("fsdp",), block, 2 * layers
    yield "all-gather", ("fsdp",), 4 * table, turns
    if fsdp > 1:
        yield "reduce-scatter", ("fsdp",), block, layers
    yield "all-reduce", copies, block / fsdp, layers
    # The embedding's two gradients (of rows that were read, and of logits) are summed whole.
    everyone = ("data", "fsdp", "sequence")
    yield "all-reduce", everyone, narrow * table, 2 * turns
    yield "all-reduce", everyone, 4 * shape.small, turns
    # Tensor: each half of a block ends in a sum, forward and backward; one comes again where a
    # block is computed again. The embedding and the logits have one each.
    again = 1 if plan.remat == "full" else 0
    passed = places * shape.width * narrow
    yield "all-reduce", ("tensor",), passed, (4 + again) * layers + 2 * turns
    # Sequence: keys and values are gathered, and their gradients scattered.
    both = 2 * places * plan.of("sequence") * shape.keys / tensor * narrow
    yield "all-gather", ("sequence",), both, (1 + again) * layers
    if plan.of("sequence") > 1:
        yield "reduce-scatter", ("sequence",), both, layers


def _group(plan: Plan, axes: tuple[str, ...]) -> tuple[int, ...]:
    """The numbers of the devices that the first one exchanges with over some axes."""
    strides, stride = {}, 1
    for axis in reversed(AXES):
        strides[axis] = stride
        stride *= plan.of(axis)
    steps = [[i * strides[axis] for i in range(plan.of(axis))] for axis in AXES if axis in axes]
    return tuple(sum(places) for places in itertools.product(*steps))


def of_model(model: Any, *, slots: int, chunk: int) -> Shape:
    """Reads the shape of a `models.transformer.Transformer`.

    Args:
      model: of which only the options are read. slots, chunk: see Shape.
    """
    width, gated = model.width, model.mlp == "swiglu"
    hidden = model.mlp_ratio * width
    if gated:
        hidden = -(-hidden * 2 // 3 // 8) * 8
    narrow = 4 if model.dtype == "float32" else 2
    positions = (model.max_positions or model.context) if model.positions == "learned" else 0
    return Shape(
        layers=model.layers,
        width=width,
        heads=model.heads,
        keys=(model.kv_heads or model.heads) * (width // model.heads),
        hidden=hidden,
        kernels=3 if gated else 2,
        vocabulary=model.vocab_size,
        context=model.context,
        positions=positions,
        tied=model.tied,
        narrow=narrow,
        slots=slots,
        chunk=chunk,
        long=model.attention in ("blockwise", "fused")
        or (model.attention == "auto" and model.context >= 1024),
        # One more of bools: where relu2 is not zero.
        inner=INNER[model.mlp] + (1 / narrow if model.mlp == "relu2" else 0.0),
        qk_norm=model.qk_norm,
        cap=bool(model.attention_cap),
        scan=model.scan,
    )
