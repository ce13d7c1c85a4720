"""Makes `image_metrics.json`: what torch-fidelity and prdc compute from features that NumPy draws.

    pip install torch torchvision torch-fidelity prdc    # which the tests do not need
    python tests/golden/make_image_metrics.py

`tests/test_image_metrics.py` draws the same features and holds ours to these numbers.
"""

import importlib.metadata
import json
from pathlib import Path

import numpy as np

# Settings of the scores, the same on both sides.
KERNEL_SUBSETS, KERNEL_SIZE, SPLITS = 7, 50, 10


def uniform(seed: int, *shape: int) -> np.ndarray:
    """Numbers in [-.5, .5), from raw bits that no NumPy release changes; float64."""
    raw = np.random.Philox(key=seed).random_raw(int(np.prod(shape)))
    return ((raw >> np.uint64(40)).astype(np.float64) / 2**24 - 0.5).reshape(shape)


def cases() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Pairs of features, generated and real, float32 [N, D] and [M, D]."""
    mix = uniform(1, 8, 8)
    near = (uniform(2, 301, 8) @ mix, 0.9 * uniform(3, 260, 8) @ mix + 0.04)
    # Fewer samples than features: singular covariances, as with few images and Inception.
    wide = (np.abs(uniform(4, 60, 96)), np.abs(1.1 * uniform(5, 70, 96)))
    # All positive and far from zero, as features after a ReLU are.
    far = (30.0 + uniform(6, 200, 12), 30.1 + 1.5 * uniform(7, 150, 12))
    pairs = {"near": near, "wide": wide, "far": far}
    return {name: (a.astype(np.float32), b.astype(np.float32)) for name, (a, b) in pairs.items()}


def logits() -> np.ndarray:
    """Float32 [123, 9]."""
    return (9.0 * uniform(8, 123, 9)).astype(np.float32)


def main() -> None:
    """Computes everything by the other implementations and writes it down."""
    import torch
    from prdc import compute_prdc
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_isc import isc_features_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torch_fidelity.metric_prc import prc_features_to_metric

    made: dict[str, object] = {
        name: importlib.metadata.version(name) for name in ("torch", "torch-fidelity", "prdc")
    }
    for name, (a, b) in cases().items():
        x, y = torch.from_numpy(a), torch.from_numpy(b)
        statistics = (fid_features_to_statistics(z) for z in (x, y))
        made[name] = {
            **fid_statistics_to_metric(*statistics, verbose=False),
            # In float64: in float32 features far from zero leave no digit of the difference.
            **kid_features_to_metric(
                x.double(),
                y.double(),
                kid_subsets=KERNEL_SUBSETS,
                kid_subset_size=KERNEL_SIZE,
                verbose=False,
            ),
            **prc_features_to_metric(x, y, verbose=False),
            "prdc": {k: float(v) for k, v in compute_prdc(b, a, nearest_k=5).items()},
        }
    made["score"] = isc_features_to_metric(torch.from_numpy(logits()), splits=SPLITS)
    path = Path(__file__).with_name("image_metrics.json")
    path.write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()
