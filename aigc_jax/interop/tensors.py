"""Named arrays from weight files: safetensors, and PyTorch's .pth without PyTorch.

A .pth file is a pickle, and a pickle may name any function to be called. Here only what tensors are
made of is understood; any other name in the file is refused before anything is called.
"""

import collections
import io
import json
import math
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import jax.numpy as jnp
import numpy as np

from aigc_jax.errors import UserError

Tensors = dict[str, np.ndarray]

_SAFE = {
    "F64": np.dtype("<f8"), "F32": np.dtype("<f4"), "F16": np.dtype("<f2"),
    "BF16": np.dtype(jnp.bfloat16),
    "I64": np.dtype("<i8"), "I32": np.dtype("<i4"), "I16": np.dtype("<i2"), "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"), "U32": np.dtype("<u4"), "U16": np.dtype("<u2"), "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}  # fmt: skip
_STORAGES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ByteStorage": "u1",
}
_MAGIC = 0x1950A86A20F9469CFC6C  # first in the files of PyTorch before 1.6


def read(path: Path) -> Tensors:
    """Reads a .safetensors or .pth file.

    Raises:
      UserError: it is neither, is cut off, or holds anything but tensors by name.
    """
    try:
        with path.open("rb") as file:
            if path.suffix == ".safetensors":
                return _safetensors(file)[0]
            if path.suffix in (".pth", ".pt", ".bin"):
                return _zipped(file) if zipfile.is_zipfile(file) else _legacy(file)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (
        OSError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError,
        struct.error, pickle.UnpicklingError, zipfile.BadZipFile, NotImplementedError,
    ) as error:  # fmt: skip
        why = " ".join(str(error).split())[:120]
        raise UserError(f"{path} can't be read as weights ({why}); copy it again.") from None
    raise UserError(f"{path}: expected weights as .safetensors or .pth.")


def read_safetensors(path: Path) -> tuple[Tensors, dict[str, str]]:
    """Returns the arrays of a file that `write_safetensors` made, and what was noted with them.

    Raises:
      OSError, ValueError, KeyError: it is not there or damaged.
    """
    with path.open("rb") as file:
        return _safetensors(file)


def write_safetensors(path: Path, tensors: Tensors, notes: dict[str, str]) -> None:
    """Writes arrays by name, widest numbers first; `notes` stand in the file's metadata."""
    header: dict[str, Any] = {"__metadata__": notes}
    kinds = {dtype: kind for kind, dtype in _SAFE.items()}
    # So that each array begins at a multiple of its numbers' size.
    ordered = sorted(tensors.items(), key=lambda item: -item[1].dtype.itemsize)
    end = 0
    for name, value in ordered:
        begin, end = end, end + value.nbytes
        kind = kinds[value.dtype.newbyteorder("<")]
        header[name] = {"dtype": kind, "shape": value.shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, value in ordered:
            file.write(value.astype(value.dtype.newbyteorder("<"), copy=False).tobytes())


def _safetensors(file: BinaryIO) -> tuple[Tensors, dict[str, str]]:
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    (length,) = struct.unpack("<Q", file.read(8))
    if length > size - 8:
        raise ValueError("the file ends within its header")
    header = json.loads(file.read(length))
    notes, data, tensors = header.pop("__metadata__", {}), file.read(), {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        if (kind := entry["dtype"]) not in _SAFE:
            raise ValueError(f"{name} is of type {kind}; expected one of {', '.join(_SAFE)}")
        if not 0 <= begin <= end <= len(data):
            raise ValueError(f"the file ends within {name}")
        tensors[name] = np.frombuffer(data[begin:end], _SAFE[kind]).reshape(entry["shape"])
    return tensors, notes


class _Storage:
    """Numbers that one or more tensors lie in; filled when the pickle has been read."""

    def __init__(self, dtype: str) -> None:
        self.dtype = np.dtype(dtype)
        self.numbers = np.empty(0, self.dtype)


class _Tensor:
    """What PyTorch says when it rebuilds a tensor: where it lies in a storage."""

    def __init__(
        self, storage: _Storage, offset: int, shape: tuple, stride: tuple, *ignored: Any
    ) -> None:
        self.storage, self.offset, self.shape, self.stride = storage, offset, shape, stride

    def array(self) -> np.ndarray:
        steps = zip(self.shape, self.stride, strict=True)
        last = self.offset + sum((n - 1) * step for n, step in steps)
        numbers = self.storage.numbers
        if min((*self.shape, *self.stride, self.offset), default=0) < 0 or last >= len(numbers):
            raise ValueError("a tensor reaches beyond its numbers")
        bytes_of = [step * numbers.itemsize for step in self.stride]
        view = np.lib.stride_tricks.as_strided(numbers[self.offset :], self.shape, bytes_of)
        return view.copy()


class _Kind:
    """The name of a type of storage."""

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype


class _Unpickler(pickle.Unpickler):
    """Understands tensors in dicts, and nothing else."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _Tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _parameter
        if module == "torch" and name in _STORAGES:
            return _Kind(_STORAGES[name])
        raise UserError(
            f"it holds {module}.{name}, and only tensors are loaded from a pickle; save the"
            " state_dict, or convert it to .safetensors."
        )

    def persistent_load(self, pid: Any) -> _Storage:
        kind, key, view = pid[1], pid[2], pid[5] if len(pid) > 5 else None
        if pid[0] != "storage" or view is not None:
            raise ValueError("a storage of an unknown form")
        return self.storages.setdefault(key, _Storage(kind.dtype))


def _parameter(tensor: _Tensor, *ignored: Any) -> _Tensor:
    return tensor


def _zipped(file: BinaryIO) -> Tensors:
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        found = [name for name in names if name.endswith("/data.pkl")]
        if len(found) != 1 or any(name.endswith("/constants.pkl") for name in names):
            raise UserError(
                "it is a TorchScript program, or no file of weights; expected a state_dict."
            )
        folder = found[0].removesuffix("data.pkl")
        if f"{folder}byteorder" in names and archive.read(f"{folder}byteorder") != b"little":
            raise ValueError("its numbers are big-endian")
        reader = _Unpickler(io.BytesIO(archive.read(found[0])))
        made = reader.load()
        for key, storage in reader.storages.items():
            storage.numbers = np.frombuffer(archive.read(f"{folder}data/{key}"), storage.dtype)
    return _arrays(made)


def _legacy(file: BinaryIO) -> Tensors:
    file.seek(0)
    if _Unpickler(file).load() != _MAGIC:
        raise ValueError("not a file of PyTorch")
    _Unpickler(file).load()  # the version of the format
    _Unpickler(file).load()  # the system it was written on
    reader = _Unpickler(file)
    made = reader.load()
    for key in _Unpickler(file).load():
        storage = reader.storages[key]
        (count,) = struct.unpack("<q", file.read(8))
        raw = file.read(count * storage.dtype.itemsize)
        if count < 0 or len(raw) != count * storage.dtype.itemsize:
            raise ValueError("the file ends within its numbers")
        storage.numbers = np.frombuffer(raw, storage.dtype)
    return _arrays(made)


def _arrays(made: Any) -> Tensors:
    if not isinstance(made, dict) or not made:
        raise UserError(f"it holds a {type(made).__name__}; expected a dict of tensors by name.")
    for name, value in made.items():
        if not isinstance(name, str) or not isinstance(value, _Tensor):
            raise UserError(f"its entry {name!r} is no tensor; expected a state_dict.")
        if math.prod(value.shape) > 2**31:
            raise ValueError(f"{name} is larger than any weight")
    return {name: value.array() for name, value in made.items()}
