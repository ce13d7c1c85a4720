"""Inception-v3 as an extractor of features: its weights from a local file, its ways of resizing.

Letters in names: B images of a chunk, N images, H, W height and width, C channels.
"""

import hashlib
import os
from collections.abc import Iterable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np

from aigc_jax.core import tree
from aigc_jax.errors import StorageError, UserError
from aigc_jax.interop import tensors
from aigc_jax.interop.resize import Resize, bicubic, weights
from aigc_jax.metrics.image import Extractor, to_uint8
from aigc_jax.models.inception import CLASSES, InceptionV3

# The weights that FID is defined by, as pytorch-fid and torch-fidelity hand them out.
PUBLISHED = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
WHERE = (
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
    "pt_inception-2015-12-05-6726825d.pth"
)
SIDE = 299  # what the protocol resizes to
_LISTED = 3  # names in a message


def extractor(
    path: str, *, sha256: str, resize: str, cache: Path | None, chunk: int = 32, side: int = SIDE
) -> Extractor:
    """Makes the extractor of FID, KID and the Inception score.

    Pixels are rounded to 256 levels first, as if they came from a file; gray is repeated to three
    channels.

    Args:
      path: the weights, .pth or .safetensors.
      sha256: what the file must have; "" for the published weights.
      resize: "tf1", "clean" or "torch", see `interop.resize`.
      cache: folder that keeps the converted weights, or None.
      chunk: images at once. side: what to resize to; another than 299 is not FID.

    Raises:
      UserError: no such file, another hash, arrays that don't fit, or no such way of resizing.
    """
    if resize not in get_args(Resize):
        raise UserError(f"resize='{resize}': expected one of {', '.join(get_args(Resize))}.")
    params, found = load(path, sha256=sha256, cache=cache)
    network, mode = InceptionV3(), resize

    @partial(jax.jit, static_argnames="mode")
    def run(params: Any, pixels_BHWC: jax.Array, mode: str) -> tuple[jax.Array, jax.Array]:
        x_BHWC = pixels_BHWC.astype(jnp.float32)
        if mode != "clean":
            rows, columns = (weights(n, side, mode) for n in x_BHWC.shape[1:3])
            # In both directions at once; float32, whatever the device likes better.
            x_BHWC = jnp.einsum("oh,bhwc,pw->bopc", rows, x_BHWC, columns, precision="highest")
        # pytorch-fid maps 0 to -1 and 255 to 1, the graph of 2015 128 to 0.
        x_BHWC = x_BHWC / 127.5 - 1.0 if mode == "torch" else (x_BHWC - 128.0) / 128.0
        if x_BHWC.shape[-1] == 1:
            x_BHWC = jnp.repeat(x_BHWC, 3, axis=-1)
        return tuple(network.apply({"params": params}, x_BHWC))

    def check(shape: Sequence[int]) -> None:
        if len(shape) != 3 or shape[2] not in (1, 3):
            raise UserError(f"images of shape {list(shape)}: Inception takes [H, W, 1 or 3].")

    def extract(x_NHWC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        check(x_NHWC.shape[1:])
        parts = []
        for begin in range(0, len(x_NHWC), chunk):
            pixels = to_uint8(x_NHWC[begin : begin + chunk])
            real = len(pixels)
            ready = bicubic(pixels, side) if mode == "clean" else pixels
            # The last chunk is filled up: one shape, one program.
            ready = np.pad(ready, ((0, chunk - real), (0, 0), (0, 0), (0, 0)))
            parts.append(tuple(np.asarray(a)[:real] for a in run(params, ready, mode)))
        features, logits = (np.concatenate(p) for p in zip(*parts, strict=True))
        return features, logits

    record = {"weights_sha256": found, "layer": "pool3", "resize": resize, "side": side}
    return Extractor("inception", extract, check, CLASSES, record)


def load(path: str, *, sha256: str, cache: Path | None) -> tuple[Any, str]:
    """Returns the network's parameters and the sha256 of the file that they came from.

    A file is converted once; the copy in `cache` is named by the original's hash and records its
    own, so that a damaged one is made anew.

    Raises:
      UserError: no such file, another hash, or arrays that don't fit.
    """
    expected = sha256.lower() or PUBLISHED
    file = Path(path).expanduser()
    if not path or not file.is_file():
        said = f"there is no file '{path}'" if path else "none is named"
        raise UserError(
            f"Inception's weights: {said}; they are not fetched unasked. Download {WHERE} (sha256"
            f" {PUBLISHED}) and give its path as weights=."
        )
    with file.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if found != expected:
        raise UserError(
            f"{path} has the sha256 {found}; expected {expected}. Download {WHERE} again, or give"
            " the hash of other weights as weights_sha256=."
        )
    kept = cache / f"inception-{found}.safetensors" if cache else None
    params = _kept(kept) if kept else None
    if params is None:
        params = convert(tensors.read(file))
        if kept:
            _keep(kept, params, found)
    return jax.tree.map(jnp.asarray, params), found


def convert(named: tensors.Tensors) -> Any:
    """Returns Flax parameters from PyTorch's names and layouts.

    Raises:
      UserError: arrays are missing, there are some too many, or shapes differ; with their names.
    """
    made: dict[str, np.ndarray] = {}
    last = {
        "conv.weight": "kernel",
        "bn.weight": "scale",
        "bn.bias": "bias",
        "bn.running_mean": "mean",
        "bn.running_var": "var",
    }
    for name, value in named.items():
        if name.endswith("num_batches_tracked") or name == "fc.bias":
            continue  # a counter of training, and a bias that the score leaves out
        if name == "fc.weight":
            made["fc/kernel"] = value.T
            continue
        place, _, end = name.rpartition(".")
        place, _, middle = place.rpartition(".")
        ours = last.get(f"{middle}.{end}", name)
        value = value.transpose(2, 3, 1, 0) if ours == "kernel" and value.ndim == 4 else value
        made[f"{place.replace('.', '/')}/{ours}"] = value
    return _checked({name: np.asarray(value, np.float32) for name, value in made.items()})


@cache
def _wanted() -> Any:
    """The network's parameters as shapes; tracing it takes a second."""
    image = jax.ShapeDtypeStruct((1, 75, 75, 3), jnp.float32)
    return jax.eval_shape(InceptionV3().init, jax.random.key(0), image)["params"]


def _checked(made: dict[str, np.ndarray]) -> Any:
    wanted = _wanted()
    shapes = {name: tuple(leaf.shape) for name, leaf in tree.named_leaves(wanted)}
    problems = {
        "missing": [n for n in shapes if n not in made],
        "not of this network": [n for n in made if n not in shapes],
        "of another shape": [
            f"{n} {list(made[n].shape)} for {list(shape)}"
            for n, shape in shapes.items()
            if n in made and made[n].shape != shape
        ],
    }
    said = [f"{what}: {_some(names)}" for what, names in problems.items() if names]
    if said:
        raise UserError(f"these are no weights of FID's Inception-v3: {'; '.join(said)}.")
    return tree.map_named(lambda name, leaf: made[name], wanted)


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    more = len(listed) - _LISTED
    return ", ".join(listed[:_LISTED]) + (f" and {more} more" if more > 0 else "")


def _digest(named: tensors.Tensors) -> str:
    digest = hashlib.sha256()
    for name in sorted(named):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(named[name]).tobytes())
    return digest.hexdigest()


def _kept(path: Path) -> Any:
    """Returns the converted weights, or None where there are none that are whole."""
    try:
        named, notes = tensors.read_safetensors(path)
        if notes["sha256_of_arrays"] != _digest(named):
            return None
        return _checked(dict(named))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _keep(path: Path, params: Any, source: str) -> None:
    named = {name: np.asarray(leaf) for name, leaf in tree.named_leaves(params)}
    notes = {"source_sha256": source, "sha256_of_arrays": _digest(named)}
    half = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors.write_safetensors(half, named, notes)
        half.replace(path)
    except OSError as error:
        half.unlink(missing_ok=True)
        raise StorageError(f"can't write {path}: {error.strerror}; free some space.") from error
