"""Maximal update parametrization: one learning rate for all widths.

Yang et al. 2022, arXiv:2203.03466, Table 8, for optimizers that normalize each entry of the
gradient. Letters: C = width, D = width of a head; those of the base model have a 0. m = C / C0.

| | embeddings, norms, biases, output layer | matrices of the blocks |
| standard deviation of the initial weights | as in the base model | 1 / sqrt(m) of it |
| learning rate | the same | 1 / m of it |

The logits are divided by m, and the attention's logits are q.k sqrt(D0) / D: 1/D, scaled so that a
model of the base width is the standard one. In this form the output layer may be the embedding.
"""

from typing import NamedTuple

# Paths of the parameters that map C numbers to a multiple of C: the dense layers of the blocks.
MATRICES = r"(^|/)block(s|_\d+)/.*/kernel$"


class Multipliers(NamedTuple):
    """What stands before each part; all 1 at the base width, and without one.

    Attributes:
      std: of the initial weights of MATRICES. output: of what the output layer reads.
      attention: of the products of queries and keys, 1 / sqrt(D) at the base width.
      rates: of the learning rate, by regular expressions of paths; {} for the standard
        parametrization.
    """

    std: float
    output: float
    attention: float
    rates: dict[str, float]


def multipliers(width: int, heads: int, base_width: int, base_heads: int = 0) -> Multipliers:
    """Returns the multipliers of a model.

    Args:
      width, heads: of the model. base_width, base_heads: of the one that it takes its numbers
        from; 0 heads are as many as `heads`; 0 wide is the standard parametrization.
    """
    depth = width / heads
    if not base_width:
        return Multipliers(1.0, 1.0, depth**-0.5, {})
    share = base_width / width
    base_depth = base_width / (base_heads or heads)
    attention = depth**-0.5 * (base_depth / depth) ** 0.5
    return Multipliers(share**0.5, share, attention, {MATRICES: share})
