"""One picture: from a file of any kind to an array, and from there to the asked size and channels.

Letters: H = height, W = width, C = channels. Arrays are uint8, or uint16 where the file has more
than 8 bits a channel.
"""

import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from aigc_jax.errors import UserError

FITS = ("resize", "pad")
FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
BACKGROUNDS = {"black": 0, "white": 1}
_ORIENTATION = 0x0112  # the tag of EXIF
_GREY = ("1", "L", "LA", "La", "F")


class Broken(Exception):
    """A picture that can't be used; the message says why, in a few words."""


class Plan(NamedTuple):
    """What becomes of every picture, in this order: channels, centre crop, size.

    Attributes:
      size: pixels of both sides, 0 keeps the picture's.
      crop: pixels of both sides that are cut out of the middle first, 0 for none.
      fit: "resize" scales the shorter side to `size` and cuts the middle out; "pad" keeps the
        pixels and puts black around them.
      channels: 1 or 3.
      filter: a name of FILTERS. background: a name of BACKGROUNDS, for what is transparent.
      wide: uint16 instead of uint8.
    """

    size: int
    crop: int
    fit: str
    channels: int
    filter: str
    background: str
    wide: bool


class Head(NamedTuple):
    """What a file says of its picture before it is decoded."""

    height: int
    width: int
    wide: bool
    color: bool
    mode: str


def head(path: Path) -> Head:
    """Reads a picture's head; raises what Pillow raises when there is none."""
    with Image.open(path) as opened:
        grey = opened.mode in _GREY or opened.mode.startswith("I") or _rawmode(opened) == "LA;16B"
        wide = opened.mode[0] in "IF" or ";16" in _rawmode(opened)
        return Head(opened.height, opened.width, wide, not grey, opened.mode)


def read(file: Path | bytes) -> np.ndarray:
    """Returns the first frame of a picture, turned as its EXIF orientation says.

    Args:
      file: its path, or what would stand in the file.

    Returns:
      [H, W, C], C = 1 grey, 2 grey and alpha, 3 colour, 4 colour and alpha; uint8 or uint16.

    Raises:
      Broken: it can't be decoded whole, or its numbers are none that a pixel can have.
    """
    try:
        with Image.open(_stream(file)) as opened:
            deep = ";16" in _rawmode(opened) and not opened.mode.startswith("I")
            pixels = _deep(file, opened) if deep else _plain(opened)
            # After decoding: some formats have it behind the pixels, and Pillow itself turns TIFF.
            return _turned(pixels, int(opened.getexif().get(_ORIENTATION, 1)))
    except (Broken, MemoryError):
        raise
    except UnidentifiedImageError:
        raise Broken("no format that Pillow knows") from None
    except OSError as error:
        raise Broken(error.strerror or str(error)) from None
    except Exception as error:  # decoders raise nearly anything on a damaged file
        raise Broken(str(error).splitlines()[0] if str(error) else type(error).__name__) from None


def _stream(file: Path | bytes) -> Path | io.BytesIO:
    return io.BytesIO(file) if isinstance(file, bytes) else file


def _rawmode(opened: Image.Image) -> str:
    """Returns how the decoder will read the file ("RGB;16B"), "" where that isn't known."""
    tiles = getattr(opened, "tile", ())
    args = tiles[0].args if tiles else ""
    return str(args[0] if isinstance(args, tuple) and args else args)


def _deep(file: Path | bytes, opened: Any) -> np.ndarray:
    """Reads 16 bits a channel in colour, of which Pillow keeps the upper 8 only.

    So the file is decoded twice, the second time as if its bytes stood in the other order.
    """
    rawmode = _rawmode(opened)
    if rawmode == "LA;16B":  # four bytes a pixel, which are those of RGBA
        opened.tile = [tile._replace(args="RGBA") for tile in opened.tile]
        parts = np.asarray(opened).astype(np.uint16)
        return parts[..., 0::2] << 8 | parts[..., 1::2]
    channels, _, order = rawmode.partition(";16")
    if channels not in ("RGB", "RGBA") or order not in ("B", "L", "N"):
        raise Broken(f"16 bits a channel laid out as {rawmode}, which is not read; save it as PNG")
    big = order == "B" or (order == "N" and not np.little_endian)
    high = np.asarray(opened).astype(np.uint16)
    with Image.open(_stream(file)) as again:
        again.tile = [_other(tile, f"{channels};16{'L' if big else 'B'}") for tile in again.tile]
        low = np.asarray(again)
        if low.shape != high.shape:  # a TIFF is turned by Pillow, in both readings alike
            raise Broken("its two readings differ")
    return high << 8 | low


def _other(tile: Any, rawmode: str) -> Any:
    """Returns a tile that is decoded as `rawmode`."""
    args = tile.args
    return tile._replace(args=(rawmode, *args[1:]) if isinstance(args, tuple) else rawmode)


def _plain(opened: Image.Image) -> np.ndarray:
    """Reads what Pillow decodes without a loss."""
    opened.load()
    mode: str = opened.mode
    if mode == "F":
        return _unit_floats(np.asarray(opened))
    if mode.startswith("I"):
        values = np.asarray(opened).astype(np.int64)
        if values.size and (values.min() < 0 or values.max() > 0xFFFF):
            raise Broken(f"values from {values.min()} to {values.max()}, expected 0 to 65535")
        return values[..., None].astype(np.uint16)
    if mode in ("PA", "La", "RGBa") or (mode in ("P", "L", "RGB") and _see_through(opened)):
        opened = opened.convert("LA" if mode in ("L", "La") else "RGBA")
    elif mode == "1":
        opened = opened.convert("L")
    elif mode not in ("L", "LA", "RGB", "RGBA"):
        opened = opened.convert("RGB")
    pixels = np.array(opened)
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _see_through(opened: Image.Image) -> bool:
    """Whether one colour, or a palette's entries, are marked as transparent."""
    return "transparency" in opened.info


def _unit_floats(values: np.ndarray) -> np.ndarray:
    """Makes uint16 [H, W, 1] of float pixels between 0 and 1."""
    if not np.isfinite(values).all():
        raise Broken(f"{np.count_nonzero(~np.isfinite(values))} pixels are NaN or infinite")
    if values.min() < 0 or values.max() > 1:
        raise Broken(f"float pixels from {values.min():g} to {values.max():g}, expected 0 to 1")
    return np.round(values[..., None].astype(np.float64) * 0xFFFF).astype(np.uint16)


def _turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turns [H, W, C] as EXIF's orientation 1 to 8 says; any other number means nothing."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def fitted(pixels: np.ndarray, plan: Plan, name: str) -> np.ndarray:
    """Brings a picture to the plan's channels, size and depth.

    Args:
      pixels: [H, W, C] as `read` returns it. plan: what is wanted. name: for messages.

    Returns:
      uint8 or uint16 [H', W', plan.channels], contiguous.

    Raises:
      UserError: the picture is smaller than the crop, or too large to be padded.
    """
    if plan.wide and pixels.dtype == np.uint8:
        pixels = pixels.astype(np.uint16) * 257  # 255 becomes 65535
    elif not plan.wide and pixels.dtype == np.uint16:
        pixels = np.round(pixels / 257).astype(np.uint8)  # its head had said otherwise
    if pixels.shape[-1] in (2, 4):
        pixels = _on_background(pixels, plan.background)
    if plan.channels == 1 and pixels.shape[-1] == 3:
        pixels = _luma(pixels)
    elif plan.channels == 3 and pixels.shape[-1] == 1:
        pixels = np.repeat(pixels, 3, axis=-1)
    if plan.crop:
        pixels = _cropped(pixels, plan.crop, name)
    if plan.size and plan.fit == "pad":
        pixels = _padded(pixels, plan.size, name)
    elif plan.size and pixels.shape[:2] != (plan.size, plan.size):
        pixels = _resized(pixels, plan.size, plan.filter)
    return np.ascontiguousarray(pixels)


def _on_background(pixels: np.ndarray, background: str) -> np.ndarray:
    """Lays [H, W, C + alpha] on black or white, in the numbers as stored (no gamma)."""
    top = np.iinfo(pixels.dtype).max
    alpha = pixels[..., -1:].astype(np.float32) / top
    mixed = pixels[..., :-1] * alpha + np.float32(BACKGROUNDS[background] * top) * (1 - alpha)
    return np.round(mixed).astype(pixels.dtype)


def _luma(pixels: np.ndarray) -> np.ndarray:
    """Grey of colour, ITU-R BT.601 in 16-bit fixed point: the numbers of Pillow's own."""
    weights = np.array([19595, 38470, 7471], np.uint64)
    total = (pixels.astype(np.uint64) * weights).sum(axis=-1, keepdims=True)
    return ((total + np.uint64(0x8000)) >> np.uint64(16)).astype(pixels.dtype)


def _cropped(pixels: np.ndarray, crop: int, name: str) -> np.ndarray:
    height, width = pixels.shape[:2]
    if min(height, width) < crop:
        raise UserError(
            f"{name} has {width}x{height} pixels, fewer than data.crop={crop}; "
            "take a smaller data.crop, or 0 for none."
        )
    top, left = (height - crop) // 2, (width - crop) // 2
    return pixels[top : top + crop, left : left + crop]


def _padded(pixels: np.ndarray, size: int, name: str) -> np.ndarray:
    height, width = pixels.shape[:2]
    if max(height, width) > size:
        raise UserError(
            f"{name} has {width}x{height} pixels, more than data.size={size}, so it can't be "
            "padded; set data.fit='resize', or a larger data.size."
        )
    top, left = (size - height) // 2, (size - width) // 2
    around = ((top, size - height - top), (left, size - width - left), (0, 0))
    return np.pad(pixels, around)


def _resized(pixels: np.ndarray, size: int, name: str) -> np.ndarray:
    """Scales the largest square in the middle to `size`, with antialiasing."""
    height, width, channels = pixels.shape
    side = min(height, width)
    top, left = (height - side) / 2, (width - side) / 2
    box = (left, top, left + side, top + side)
    if pixels.dtype == np.uint8:
        image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
        scaled = np.asarray(image.resize((size, size), FILTERS[name], box=box))
        return scaled.reshape(size, size, channels)
    planes = [  # Pillow scales 16 bits a channel as float32 only
        Image.fromarray(np.ascontiguousarray(pixels[..., c], np.float32)).resize(
            (size, size), FILTERS[name], box=box
        )
        for c in range(channels)
    ]
    scaled = np.stack([np.asarray(plane) for plane in planes], axis=-1)
    return np.clip(np.round(scaled), 0, 0xFFFF).astype(np.uint16)
