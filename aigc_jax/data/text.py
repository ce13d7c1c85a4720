"""Any UTF-8 text: a file, a folder of .txt and .md files, or a text of the catalogue by name."""

import hashlib
from pathlib import Path
from typing import Literal

from aigc_jax.data import lm
from aigc_jax.data.base import Data
from aigc_jax.data.files import cut, read_text, text_files
from aigc_jax.errors import UserError, nearest


def make(
    *,
    batch_size: int,
    seed: int,
    path: str = "shakespeare",
    tokenizer: str = "char",
    vocab_size: int = 512,
    context: int = 64,
    train_share: float = 0.9,
    documents: str | None = None,
    end_token: bool = True,
    split_seed: int | None = None,
    order: Literal["random", "epochs"] = "random",
) -> Data:
    """Returns batches of a text for a language model.

    Args:
      batch_size: rows of the global batch, B.
      seed: of the order of training; it changes neither the split nor the tokenizer.
      path: a file, a folder (its .txt and .md files, sorted by path), or a name of
        `aigc data list`, which is fetched when it is not there.
      tokenizer: "bytes", "char", "bpe", "gpt2", or the path of a saved tokenizer.json.
      vocab_size: where "bpe" stops, at least 256.
      context: tokens in a row, T.
      train_share: share of the characters that is trained on, from the beginning; the rest is for
        validation. With `documents`, the cut is at the nearest end of a document before it.
      documents: None takes the text as one; "files" keeps files apart; "lines", "paragraphs" (at
        empty lines) or a separator of your own (backslash n is a newline) cuts into documents.
        Several share a row; `segments` and `positions` tell them apart.
      end_token: whether a token of its own stands between documents, so that a model learns where
        texts begin and end. Without it no document's first token is predicted.
      split_seed: shuffles the documents before the split; None keeps their order.
      order: "random" takes crops from anywhere, as nanoGPT does; "epochs" takes non-overlapping
        windows in shuffled order.

    Raises:
      UserError: the text is missing, empty, not UTF-8 (with the byte offset) or too short, or a
        setting is wrong.
    """
    source = _source(path, documents)
    settings = lm.Settings(tokenizer, vocab_size, train_share, end_token, split_seed)
    return lm.make_data(
        source, settings, context=context, batch_size=batch_size, seed=seed, order=order
    )


def _source(path: str, documents: str | None) -> lm.Source:
    """Finds the files that `path` means, and hashes them."""
    if documents == "":
        raise UserError("data.documents is empty; expected None, 'files', 'lines' or a separator.")
    found = Path(path).expanduser()
    if not found.exists():
        return _named(path, documents)
    return from_files(path, text_files(found), documents)


def _named(path: str, documents: str | None) -> lm.Source:
    """Takes a text of the catalogue, fetching it when it is not there."""
    from aigc_jax.data import catalogue

    names = catalogue.texts()
    if path not in names:
        raise UserError(
            f"No file, folder or text called {path!r}.{nearest(path, names)} "
            f"Expected a path, or one of {', '.join(names)}."
        )
    folder = catalogue.ready(path)
    if catalogue.kind_of(path) == "wheel":
        return from_files(path, text_files(folder), documents)
    from aigc_jax.data import tfds

    return tfds.whole_text(path, folder, documents)


def from_files(name: str, files: list[Path], documents: str | None) -> lm.Source:
    """Returns the source of these files, in this order."""
    digest, size = hashlib.sha256(repr(documents).encode()), 0
    for file in files:
        try:
            with file.open("rb") as opened:
                inner = hashlib.file_digest(opened, "sha256").digest()
            size += file.stat().st_size
        except OSError as error:
            raise UserError(f"The text {file} can't be read: {error.strerror}.") from None
        digest.update(inner)
    if size == 0:
        raise UserError(f"The text {name} is empty; expected some text in UTF-8.")

    def read() -> lm.Texts:
        return lm.Texts(cut([read_text(file) for file in files], documents), None)

    return lm.Source(name, digest.hexdigest(), size, documents is not None, read)
