"""Fingerprints of arrays: 32 bits that depend on every bit of an array and on where it stands.

The bits of element i (its index in C order) are added to i times an odd constant and mixed; the
fingerprint is the sum of all, modulo 2^32. Mixing is one to one, so a change of a single element,
be it one bit or a sign, always shows; any other change is missed once in 2^32 times. Sums of
integers don't depend on their order: neither the devices that hold an array, nor how it is split
over them, nor the compiler change a bit of it.

The mixer is the finalizer of MurmurHash3 (Austin Appleby, public domain).
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from aigc_jax.core import tree

PARTS = ("hyper", "params", "vars", "opt", "ema")
"""The parts of a state that are fingerprinted, in the order in which differences are told."""

_GOLDEN = 0x9E3779B9
_ROUNDS = ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1))
_CHUNK = 1 << 20  # elements that the NumPy version holds at a time
_WORDS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint32}


def fingerprint(x: jax.Array) -> jax.Array:
    """Returns the fingerprint of an array on its devices, uint32 [].

    Args:
      x: of any shape and dtype; a typed random key counts as the integers it is made of. 64-bit
        values count as two words.
    """
    mixed = _words(x)
    for axis, size in enumerate(mixed.shape):
        if size > 1:
            # A sum over axes, not a flat index: a reshape of a split array would gather it.
            stride = math.prod(mixed.shape[axis + 1 :]) * _GOLDEN & 0xFFFFFFFF
            iota = jax.lax.broadcasted_iota(jnp.uint32, mixed.shape, axis)
            mixed = mixed + iota * np.uint32(stride)
    for shift, factor in _ROUNDS:
        mixed = (mixed ^ (mixed >> np.uint32(shift))) * np.uint32(factor)
    return jnp.sum(mixed, dtype=jnp.uint32)


def _words(x: jax.Array) -> jax.Array:
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    if jnp.iscomplexobj(x):
        x = jnp.stack([x.real, x.imag], axis=-1)
    if x.dtype == jnp.bool_ or x.dtype.itemsize * 8 != _bits(x.dtype):
        return x.astype(jnp.int32).astype(jnp.uint32)
    return jax.lax.bitcast_convert_type(x, _WORDS[x.dtype.itemsize]).astype(jnp.uint32)


def _bits(dtype: Any) -> int:
    """The bits of an element: 4 for int4, which takes a byte."""
    if jnp.issubdtype(dtype, jnp.integer):
        return int(jnp.iinfo(dtype).bits)
    return int(jnp.finfo(dtype).bits)


def fingerprint_host(x: np.ndarray) -> int:
    """Returns what `fingerprint` returns of the same array, by NumPy; a key comes as integers."""
    x = np.ascontiguousarray(x)
    if np.iscomplexobj(x):
        x = x.reshape(-1).view(x.real.dtype)
    if x.dtype != np.bool_ and x.dtype.itemsize * 8 == _bits(x.dtype):
        words = x.reshape(-1).view(_WORDS[x.dtype.itemsize])
    else:
        words = x.reshape(-1).astype(np.int32).view(np.uint32)
    total = 0
    for start in range(0, words.size, _CHUNK):
        part = words[start : start + _CHUNK].astype(np.uint32)
        part += np.arange(start, start + part.size).astype(np.uint32) * np.uint32(_GOLDEN)
        for shift, factor in _ROUNDS:
            part = (part ^ (part >> np.uint32(shift))) * np.uint32(factor)
        total += int(part.sum(dtype=np.uint64))
    return total & 0xFFFFFFFF


def fingerprints(named: Sequence[tuple[str, jax.Array]]) -> jax.Array:
    """Returns the fingerprints of named arrays in their order, uint32 [len(named)]."""
    return jnp.stack([fingerprint(x) for _, x in named])


def kind(x: Any) -> str:
    """Returns the dtype and shape of an array in words: "float32[3,4]"."""
    return f"{x.dtype}[{','.join(map(str, x.shape))}]"


def named_state(state: Any) -> list[tuple[str, Any]]:
    """Returns (path, leaf) of what of a state is fingerprinted: all but the step and the key."""
    return [
        (f"{part}/{name}", leaf)
        for part in PARTS
        for name, leaf in tree.named_leaves(getattr(state, part))
    ]
