"""From documents to a language model's data: tokenized once, memory-mapped after that.

The cache's key is the sha256 of the content and of every setting that changes the ids. Letters:
N = ids of a part, B = batch, T = context, V = vocabulary.
"""

import hashlib
import json
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from aigc_jax.data import order, store
from aigc_jax.data.base import ArraySpec, Data, Spec
from aigc_jax.data.windows import RandomCrops, ShuffledWindows, Stream, cover
from aigc_jax.errors import UserError, nearest
from aigc_jax.tokenizers import load
from aigc_jax.tokenizers.base import Tokenizer

FORMAT = 1  # of the cached files; a new number makes every text be tokenized anew
ORDERS = ("random", "epochs")
PARTS = ("train", "validation")
NOTICE_BYTES = 20_000_000  # a text above this takes long enough to tokenize to say so


class Texts(NamedTuple):
    """Documents of the training part and, where the source has its own, of the validation part."""

    train: list[str]
    validation: list[str] | None


class Source(NamedTuple):
    """Where text comes from. `read` is called only when the ids are not in the cache.

    `content` is the sha256 of all that `read` would return, `size` its bytes, `name` how messages
    call it, `documents` whether `read` returns documents to keep apart.
    """

    name: str
    content: str
    size: int
    documents: bool
    read: Callable[[], Texts]


class Settings(NamedTuple):
    """What changes the ids, beside the content."""

    tokenizer: str
    vocab_size: int
    train_share: float
    end_token: bool
    split_seed: int | None


class Prepared(NamedTuple):
    """The two parts as ids, and what is known about them."""

    streams: dict[str, Stream]
    tokenizer: Tokenizer
    floors: dict[str, float]
    fingerprint: str


def make_data(
    source: Source, settings: Settings, *, context: int, batch_size: int, seed: int, order: str
) -> Data:
    """Returns the batches of `source`; see `text.make` for the settings.

    Raises:
      UserError: a setting is out of range, or the text is too short for the context.
    """
    _check(settings, context, batch_size, order)
    prepared = _prepare(source, settings)
    train = prepared.streams["train"]
    _long_enough(source, prepared.streams, context)
    pipeline = RandomCrops if order == "random" else ShuffledWindows
    shape = (batch_size, context)
    arrays = {"inputs": "int32", "targets": "int32", "mask": "float32"}
    if train.starts is not None:
        arrays |= {"segments": "int32", "positions": "int32"}
    facts: dict[str, Any] = {
        "vocab_size": prepared.tokenizer.vocab_size,
        "context": context,
        "token_bytes": prepared.tokenizer.token_bytes(),
        "unit": "tokens",
        "floors": prepared.floors,
        "tokens": {name: len(prepared.streams[name].ids) for name in PARTS},
        "source": source.name,
    }
    return Data(
        spec=Spec({name: ArraySpec(shape, dtype) for name, dtype in arrays.items()}, facts),
        batch=pipeline(train, context, batch_size, seed),
        splits={name: cover(prepared.streams[name], context, batch_size) for name in PARTS},
        tokenizer=prepared.tokenizer,
        fingerprint=prepared.fingerprint,
        # Without an end token between them, documents side by side are no sequence.
        ids={n: s.ids for n, s in prepared.streams.items() if s.starts is None or s.joined},
    )


def _check(settings: Settings, context: int, batch_size: int, order: str) -> None:
    """Raises UserError for a setting that no text could make right."""
    if order not in ORDERS:
        raise UserError(
            f"data.order is {order!r}; expected 'random' or 'epochs'.{nearest(order, ORDERS)}"
        )
    for name, value in (("data.context", context), ("run.batch_size", batch_size)):
        if value < 1:
            raise UserError(f"{name} is {value}; expected at least 1.")
    if not 0 < settings.train_share < 1:
        raise UserError(
            f"data.train_share is {settings.train_share}; expected a number between 0 and 1, since "
            "both the training and the validation part need some text."
        )


def _long_enough(source: Source, streams: dict[str, Stream], context: int) -> None:
    """Raises UserError when a part has no window to give."""
    for name, least in (("train", context + 1), ("validation", 2)):
        if (found := len(streams[name].ids)) < least:
            raise UserError(
                f"{source.name} is too short: its {name} part has {found} tokens, expected at "
                f"least {least} for data.context={context}. Take a longer text"
                + (" or a smaller data.context." if name == "train" else ".")
            )


def _tokenizer_key(name: str) -> str:
    """Returns what stands for the tokenizer in the cache's key: its name or its file's content."""
    if name in load.NAMES:
        return name
    path = Path(name).expanduser()
    if not path.is_file():
        load.check_name(name)
    return json.dumps(load.from_file(path).to_dict(), sort_keys=True)


def _prepare(source: Source, settings: Settings) -> Prepared:
    """Returns the ids, from the cache where they are there."""
    identity = {
        "format": FORMAT,
        "content": source.content,
        "documents": source.documents,
        **settings._asdict(),
        "tokenizer": _tokenizer_key(settings.tokenizer),
        "vocab_size": settings.vocab_size if settings.tokenizer == "bpe" else None,
        "end_token": settings.end_token and source.documents,
    }
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    folder = store.cache_root() / "tokens" / key[:32]
    if (found := _open(folder, key)) is not None:
        return found
    with store.locked(folder.with_suffix(".lock"), f"tokenizing {source.name}"):
        if (found := _open(folder, key)) is None:
            if source.size > NOTICE_BYTES:
                print(
                    f"Tokenizing {source.name} ({source.size / 1e6:.0f} MB) once; "
                    f"the ids are kept in {folder.parent}.",
                    file=sys.stderr,
                )
            with store.filling(folder) as temporary:
                _tokenize(source, settings, temporary, key)
            found = _open(folder, key)
    if found is None:
        raise UserError(f"The ids just written to {folder} can't be read back; check that disk.")
    return found


def _open(folder: Path, key: str) -> Prepared | None:
    """Maps what `_tokenize` wrote; None when it is not there or not whole."""
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        if meta["key"] != key:
            return None
        streams = {}
        for part in PARTS:
            ids = _mapped(folder / f"{part}.npy")
            starts = _mapped(folder / f"{part}_starts.npy") if meta["documents"] else None
            if len(ids) != meta["tokens"][part]:
                return None
            streams[part] = Stream(ids, starts, bool(meta["joined"]))
        return Prepared(streams, load.from_dict(meta["tokenizer"]), meta["floors"], key)
    except (OSError, ValueError, KeyError):
        return None  # damaged: made anew


def _mapped(path: Path) -> np.ndarray:
    """Maps an .npy file; as a plain array, whose indexing is faster than `np.memmap`'s."""
    return np.asarray(np.load(path, mmap_mode="r"))


def _tokenize(source: Source, settings: Settings, folder: Path, key: str) -> None:
    """Writes ids, document starts, the tokenizer and the floors into `folder`."""
    texts = source.read()
    train, validation = _split(source, texts, settings)
    tokenizer = _tokenizer(settings, train, validation, end=settings.end_token and source.documents)
    joined = source.documents and settings.end_token
    if joined and tokenizer.end is None:
        raise UserError(
            f"The tokenizer {settings.tokenizer} has no end token, which data.end_token=True "
            "puts between documents; set data.end_token=False."
        )
    dtype = np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32
    streams = {}
    for part, documents in zip(PARTS, (train, validation), strict=True):
        ids, starts = _stream(documents, tokenizer, tokenizer.end if joined else None)
        np.save(folder / f"{part}.npy", ids.astype(dtype))
        if source.documents:
            np.save(folder / f"{part}_starts.npy", starts)
        streams[part] = Stream(ids, starts if source.documents else None, joined)
    meta = {
        "key": key,
        "source": source.name,
        "documents": source.documents,
        "joined": joined,
        "tokens": {part: len(streams[part].ids) for part in PARTS},
        "floors": _floors(streams, tokenizer.vocab_size),
        "tokenizer": tokenizer.to_dict(),
    }
    (folder / "meta.json").write_text(json.dumps(meta), encoding="utf-8")


def _tokenizer(
    settings: Settings, train: Sequence[str], validation: Sequence[str], *, end: bool
) -> Tokenizer:
    """Learns, fetches or reads the tokenizer that the settings name."""
    name = settings.tokenizer
    if name == "gpt2":
        from aigc_jax.data import catalogue
        from aigc_jax.tokenizers import gpt2

        return gpt2.from_folder(catalogue.ready("gpt2"))
    if name not in load.NAMES:
        return load.from_file(Path(name).expanduser())
    return load.learn(name, [*train, *validation], train, vocab_size=settings.vocab_size, end=end)


def _split(source: Source, texts: Texts, settings: Settings) -> tuple[list[str], list[str]]:
    """Cuts the text, or the list of documents, where the training part ends."""
    documents = texts.train
    if settings.split_seed is not None and source.documents:
        places = order.permutation(settings.split_seed, order.SPLIT, 0, len(documents))
        documents = [documents[i] for i in places.tolist()]
    if texts.validation is not None:
        return documents, texts.validation
    if not source.documents:
        whole = "".join(documents)
        cut = int(len(whole) * settings.train_share)
        return [whole[:cut]], [whole[cut:]]
    if len(documents) < 2:
        raise UserError(
            f"{source.name} has {len(documents)} document; expected at least 2, one of them for "
            "validation. Set data.documents=None to take it as one text."
        )
    ends = np.cumsum([len(d) for d in documents])
    cut = int(np.searchsorted(ends, ends[-1] * settings.train_share, side="right"))
    cut = min(max(cut, 1), len(documents) - 1)
    return documents[:cut], documents[cut:]


def _stream(
    documents: Iterable[str], tokenizer: Tokenizer, end: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Joins the ids of documents.

    With `end`, the end token stands before every document and after the last: whatever follows
    it is the beginning of a text, and a text's last token learns that it is the last.

    Returns:
      ids int32 [N], and uint8 [N] that is 1 where a document begins.
    """
    border = np.zeros(0, np.int32) if end is None else np.array([end], np.int32)
    parts, begins, total = [], [], 0
    for document in documents:
        ids = tokenizer.encode(document)
        if len(ids):
            parts += [border, ids]
            begins.append(total)
            total += len(border) + len(ids)
    if parts:
        parts.append(border)
        begins += [total] if len(border) else []
    ids = np.concatenate(parts) if parts else np.zeros(0, np.int32)
    starts = np.zeros(len(ids), np.uint8)
    starts[begins] = 1
    return ids, starts


def _floors(streams: dict[str, Stream], vocab_size: int) -> dict[str, float]:
    """Returns what a model has to beat, nats per token of the validation part.

    "uniform" is ln V; "unigram" the training part's frequencies with one added to each count.
    """
    counts = np.bincount(streams["train"].ids, minlength=vocab_size) + 1.0
    nats = np.log(counts.sum()) - np.log(counts)
    stream = streams["validation"]
    targets = stream.ids[1:]
    if stream.starts is not None and not stream.joined:
        targets = targets[stream.starts[1:] == 0]
    unigram = float(nats[targets].mean()) if len(targets) else float("nan")
    return {"uniform": math.log(vocab_size), "unigram": unigram}
