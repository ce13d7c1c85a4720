"""Pictures decoded once: uint8 or uint16 in memory-mapped files, found again by their content.

Letters: N = pictures of a part, H = height, W = width, C = channels.
"""

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from aigc_jax.data import store
from aigc_jax.data.decode import Broken, Plan, fitted
from aigc_jax.errors import UserError

FORMAT = 1  # of the cached files; a new number makes every picture be decoded anew
CHUNK = 64  # pictures that one thread decodes at once
NOTICE = 5000  # pictures above this take long enough to decode to say so
META = "meta.json"


class Item(NamedTuple):
    """One picture: its name for messages, and what decodes it and says its class (or -1)."""

    name: str
    load: Callable[[], tuple[np.ndarray, int]]


class Contents(NamedTuple):
    """Pictures by part ("train", "validation", "test"), in the order they are kept in.

    `wide` says that some have more than 8 bits a channel, `color` that some are not grey.
    """

    parts: Mapping[str, Sequence[Item]]
    class_names: tuple[str, ...]
    wide: bool
    color: bool


class Source(NamedTuple):
    """Where pictures come from. `open` is called only when they are not in the cache.

    `content` is the sha256 of all that `open` depends on, `name` how messages call it.
    """

    name: str
    content: str
    open: Callable[[], Contents]


class Settings(NamedTuple):
    """What changes the pixels kept, beside the content; see `images.make`. 0 channels: as it is."""

    size: int
    crop: int
    fit: str
    channels: int
    filter: str
    background: str


class Part(NamedTuple):
    """images [N, H, W, C], mapped from the disk, and labels int32 [N] or None."""

    images: np.ndarray
    labels: np.ndarray | None


class Prepared(NamedTuple):
    """The parts, the names of the classes (none: no labels), and (picture, reason) left out."""

    parts: dict[str, Part]
    class_names: tuple[str, ...]
    broken: tuple[tuple[str, str], ...]
    key: str


def prepared(source: Source, settings: Settings, broken_share: float) -> Prepared:
    """Returns the pictures, from the cache where they are there; says which are left out.

    Raises:
      UserError: more than `broken_share` of them are broken, they differ in size and none is asked
        for, or they don't fit the settings.
    """
    identity = {"format": FORMAT, "content": source.content, **settings._asdict()}
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    folder = store.cache_root() / "images" / key[:32]
    found = _open(folder, key)
    if found is None:
        with store.locked(folder.with_suffix(".lock"), f"preparing {source.name}"):
            if (found := _open(folder, key)) is None:
                with store.filling(folder) as temporary:
                    _write(source, settings, temporary, key, broken_share)
                found = _open(folder, key)
    if found is None:
        raise UserError(f"The pictures just written to {folder} can't be read; check that disk.")
    if found.broken:
        total = len(found.broken) + sum(len(part.images) for part in found.parts.values())
        _check_share(source.name, found.broken, total, broken_share)
        print(
            f"{source.name}: {_said(found.broken, total)}; left out, all named in {folder / META}.",
            file=sys.stderr,
        )
    return found


def _said(broken: Sequence[tuple[str, str]], total: int) -> str:
    name, reason = broken[0]
    verb = "is" if len(broken) == 1 else "are"
    return f"{len(broken)} of {total:,} pictures {verb} broken, the first {name} ({reason})"


def _check_share(
    name: str, broken: Sequence[tuple[str, str]], total: int, broken_share: float
) -> None:
    """Raises UserError when too many pictures are broken."""
    if broken and len(broken) > broken_share * total:
        raise UserError(
            f"{name}: {_said(broken, total)}, more than data.broken_share={broken_share:g} allows. "
            "Mend or remove them, or set a larger data.broken_share."
        )


def _open(folder: Path, key: str) -> Prepared | None:
    """Maps what `_write` wrote; None when it is not there or not whole."""
    try:
        meta = json.loads((folder / META).read_text(encoding="utf-8"))
        if meta["key"] != key:
            return None
        parts = {}
        for name, count in meta["parts"].items():
            shape = (count, *meta["shape"])
            path, dtype = folder / f"{name}.bin", np.dtype(meta["dtype"])
            if path.stat().st_size != int(np.prod(shape)) * dtype.itemsize:
                return None
            # As a plain array, whose indexing is faster than that of np.memmap.
            images = np.asarray(np.memmap(path, dtype, "r", shape=shape))
            labels = np.load(folder / f"{name}_labels.npy") if meta["class_names"] else None
            if labels is not None and len(labels) != count:
                return None
            parts[name] = Part(images, labels)
        broken = tuple((str(name), str(reason)) for name, reason in meta["broken"])
        return Prepared(parts, tuple(meta["class_names"]), broken, key)
    except (OSError, ValueError, KeyError, TypeError):
        return None  # damaged: made anew


def _write(source: Source, settings: Settings, folder: Path, key: str, broken_share: float) -> None:
    """Decodes all pictures into `folder`."""
    contents = source.open()
    total = sum(len(items) for items in contents.parts.values())
    if total > NOTICE:
        print(
            f"Preparing {total:,} pictures of {source.name} once; they are kept in "
            f"{folder.parent}.",
            file=sys.stderr,
        )
    channels = settings.channels or (3 if contents.color else 1)
    plan = Plan(
        settings.size, settings.crop, settings.fit, channels, settings.filter, settings.background,
        contents.wide,
    )  # fmt: skip
    writer = _Writer(source.name)
    distinct: set[int] = set()
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        for part, items in contents.parts.items():
            labels = []
            with (folder / f"{part}.bin").open("wb") as file:
                for item, pixels, label in _decoded(pool, items, plan):
                    if writer.add(file, item.name, pixels):
                        _check_label(source.name, item.name, label, contents.class_names)
                        labels.append(label)
            if not labels:
                _check_share(source.name, writer.broken, total, broken_share)
                why = _said(writer.broken, total) if writer.broken else "there was none"
                raise UserError(f"{source.name} has no picture left in its {part} part: {why}.")
            writer.counts[part] = len(labels)
            distinct |= set(labels)
            if contents.class_names:
                np.save(folder / f"{part}_labels.npy", np.array(labels, np.int32))
    _check_share(source.name, writer.broken, total, broken_share)
    if contents.class_names and len(distinct) < 2:
        raise UserError(
            f"{source.name} has one class only; expected at least 2, or data.labels='none'."
        )
    meta = {
        "key": key,
        "source": source.name,
        "settings": settings._asdict(),
        "parts": writer.counts,
        "shape": writer.shape,
        "dtype": "uint16" if contents.wide else "uint8",
        "class_names": contents.class_names,
        "broken": writer.broken,
    }
    (folder / META).write_text(json.dumps(meta), encoding="utf-8")


def _check_label(source: str, picture: str, label: int, names: Sequence[str]) -> None:
    if names and not 0 <= label < len(names):
        raise UserError(
            f"{source}: {picture} has the label {label}; expected 0 to {len(names) - 1}, or "
            "data.labels='none'."
        )


def _decoded(
    pool: ThreadPoolExecutor, items: Sequence[Item], plan: Plan
) -> Iterator[tuple[Item, np.ndarray | Broken, int]]:
    """Yields the pictures in order, decoded by threads, a bounded number ahead."""

    def some(chunk: Sequence[Item]) -> list[tuple[Item, np.ndarray | Broken, int]]:
        return [_one(item, plan) for item in chunk]

    ahead = CHUNK * 32
    for begin in range(0, len(items), ahead):
        block = items[begin : begin + ahead]
        for made in pool.map(some, [block[i : i + CHUNK] for i in range(0, len(block), CHUNK)]):
            yield from made


def _one(item: Item, plan: Plan) -> tuple[Item, np.ndarray | Broken, int]:
    try:
        pixels, label = item.load()
        return item, fitted(pixels, plan, item.name), label
    except Broken as error:
        return item, error, -1


class _Writer:
    """Appends pictures of one shape to a file, and keeps count of the broken ones."""

    def __init__(self, source: str) -> None:
        self._source, self._first = source, ""
        self.shape: tuple[int, ...] = ()
        self.broken: list[tuple[str, str]] = []
        self.counts: dict[str, int] = {}

    def add(self, file: BinaryIO, name: str, pixels: np.ndarray | Broken) -> bool:
        """Writes one picture; returns False where it is broken."""
        if isinstance(pixels, Broken):
            self.broken.append((name, str(pixels)))
            return False
        if not self.shape:
            self.shape, self._first = pixels.shape, name
        if pixels.shape != self.shape:
            a, b = self.shape, pixels.shape
            raise UserError(
                f"The pictures of {self._source} differ in size: {self._first} has {a[1]}x{a[0]} "
                f"pixels, {name} has {b[1]}x{b[0]}. data.size=0 keeps sizes, so all must agree; "
                "set data.size."
            )
        file.write(pixels.tobytes())
        return True


def content_of(root: Path, names: Sequence[str]) -> str:
    """Returns the sha256 of the names of files below `root`, with / between, and their contents.

    Files that have not changed since the last time, as far as the system knows (inode, size, times
    of modification and of change), are not read again: of a large folder that is minutes.
    """
    paths = [os.path.join(root, name) for name in names]
    stamp = hashlib.sha256(os.fsencode(root.resolve()))
    for name, path in zip(names, paths, strict=True):
        try:
            s = os.stat(path)
            known = (name, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns)
        except OSError as error:  # a link to nowhere is a broken picture
            known = (name, error.errno or 0, 0, 0, 0)
        stamp.update(ascii(known).encode())
    note = store.cache_root() / "images" / f"{stamp.hexdigest()[:32]}.sha256"
    try:
        if len(bytes.fromhex(known_digest := note.read_text(encoding="ascii"))) == 32:
            return known_digest
    except (OSError, ValueError):
        pass  # never read, or the note is damaged
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        digests = list(pool.map(_digest, map(Path, paths)))
    whole = hashlib.sha256()
    for entry in zip(names, digests, strict=True):
        whole.update(ascii(entry).encode())
    with store.storage(note.parent):
        note.parent.mkdir(parents=True, exist_ok=True)
        part = note.with_suffix(f".{os.getpid()}.part")
        part.write_text(whole.hexdigest(), encoding="ascii")
        part.replace(note)
    return whole.hexdigest()


def _digest(path: Path) -> str:
    """Returns a file's sha256; an unreadable one is a broken picture, and said so later."""
    try:
        return store.sha256_of(path)
    except OSError as error:
        return f"unreadable: {error.strerror}"
