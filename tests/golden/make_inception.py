"""Makes `inception.json` and two small weight files: what PyTorch and torch-fidelity compute.

    pip install torch torchvision torch-fidelity pillow clean-fid    # which the tests do not need
    python tests/golden/make_inception.py

The whole network of torch-fidelity, with random weights that NumPy draws by name. Images are
resized to 139 x 139 by the graph's own way: the last blocks then have a grid of 3 x 3, and nothing
of a kernel falls outside of it altogether. `weights_zip.pth` and `weights_legacy.pth` are a few
tensors as PyTorch saves them since 1.6 and before.
"""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

SIDE, PICKED = 139, 24


def uniform(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers in [-.5, .5), from raw bits that no NumPy release changes; float32."""
    raw = np.random.Philox(key=seed).random_raw(int(np.prod(shape)))
    return ((raw >> np.uint64(40)).astype(np.float32) / 2**24 - 0.5).reshape(shape)


def weights(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Random weights by PyTorch's names, of a size that keeps the activations' size."""
    drawn = {}
    for index, name in enumerate(sorted(shapes)):
        value = uniform(1000 + index, shapes[name])
        if value.ndim > 1:
            value *= np.float32((24.0 / np.prod(value.shape[1:])) ** 0.5)
        elif name.endswith(("bn.weight", "running_var")):
            value += 1
        drawn[name] = value
    return drawn


def images(count: int, height: int, width: int, channels: int) -> np.ndarray:
    """Smooth random pictures, uint8 [N, H, W, C]."""
    coarse = uniform(7, (count, 4, 4, channels))
    x = np.repeat(np.repeat(coarse, -(-height // 4), 1), -(-width // 4), 2)[:, :height, :width]
    fine = uniform(8, (count, height, width, channels))
    return np.clip(127.5 + 200 * x + 60 * fine, 0, 255).astype(np.uint8)


def picked(x: np.ndarray) -> list[list[float]]:
    """Some numbers of each row, evenly spaced."""
    return [[float(v) for v in row[:: max(1, len(row) // PICKED)]] for row in x]


def resized(pixels: np.ndarray) -> dict[str, object]:
    """The three ways of resizing, as their own code does it: up and down."""
    import torch
    from cleanfid.resize import build_resizer
    from torch_fidelity.interpolate_compat_tensorflow import (
        interpolate_bilinear_2d_like_tensorflow1x as tf1,
    )

    clean = build_resizer("clean")
    x = torch.from_numpy(pixels.transpose(0, 3, 1, 2).astype(np.float32))
    side = (299, 299)
    torch_way = torch.nn.functional.interpolate(x, size=side, mode="bilinear", align_corners=False)
    ways = {
        "tf1": tf1(x, size=side, align_corners=False).numpy().transpose(0, 2, 3, 1),
        "torch": torch_way.numpy().transpose(0, 2, 3, 1),
        "clean": np.stack([clean(image) for image in pixels]),
    }
    return {name: picked(value.reshape(len(value), -1)) for name, value in ways.items()}


def main() -> None:
    """Runs the network and writes what it gives."""
    import torch
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3 as Network

    here, made = Path(__file__).parent, {"torch": torch.__version__}
    Network.INPUT_IMAGE_SIZE = SIDE
    empty = Network.__new__(Network)
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/weights.pth"
        loaded: dict[str, tuple[int, ...]] = {}

        def remember(module: torch.nn.Module, state: dict) -> None:
            loaded.update({k: tuple(v.shape) for k, v in module.state_dict().items()})
            values = weights({k: s for k, s in loaded.items() if s})
            counters = {k: torch.zeros(s) for k, s in loaded.items() if not s}
            torch.nn.Module.load_state_dict(
                module, counters | {k: torch.from_numpy(v) for k, v in values.items()}
            )

        torch.save({}, path)
        Network.load_state_dict = remember
        Network.__init__(
            empty, "random", ["2048", "logits_unbiased"], feature_extractor_weights_path=path
        )
    pixels = images(2, 32, 48, 3)
    features, logits = empty(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()))
    made |= {
        "features": picked(features.numpy()),
        "logits": picked(logits.numpy()),
        "features_norm": float(features.norm()),
        "logits_norm": float(logits.norm()),
        "up": resized(images(1, 32, 48, 3)),
        "down": resized(images(1, 400, 333, 3)),
    }
    (here / "inception.json").write_text(json.dumps(made, indent=1) + "\n")
    tensors = {
        "a.weight": torch.arange(12.0).reshape(3, 4).T,  # not contiguous
        "b.half": torch.arange(3.0).half(),
        "b.count": torch.tensor(7),
        "c": torch.nn.Parameter(torch.arange(5.0)[2:]),  # begins within its storage
    }
    state = torch.nn.Module()
    named = state.state_dict()
    named.update(tensors)
    torch.save(named, here / "weights_zip.pth")
    torch.save(named, here / "weights_legacy.pth", _use_new_zipfile_serialization=False)


if __name__ == "__main__":
    main()
