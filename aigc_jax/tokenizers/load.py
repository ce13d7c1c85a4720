"""Tokenizers by name, and back from `tokenizer.json`."""

import importlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from aigc_jax.errors import UserError, nearest
from aigc_jax.tokenizers.base import Tokenizer

NAMES = ("bytes", "char", "bpe", "gpt2")


def check_name(name: str) -> str:
    """Returns `name`; raises UserError with the right names when it is none of them."""
    if name not in NAMES:
        raise UserError(
            f"No tokenizer is called {name!r}.{nearest(name, NAMES)} Expected one of "
            f"{', '.join(NAMES)}, or the path of a saved tokenizer.json."
        )
    return name


def learn(
    name: str, texts: Iterable[str], train: Iterable[str], *, vocab_size: int, end: bool
) -> Tokenizer:
    """Builds a tokenizer for a text.

    Args:
      name: "bytes", "char" or "bpe" (GPT-2's comes from its files: `gpt2.from_folder`).
      texts: the whole text; "char" takes its symbols from all of it, as nanoGPT does, so that no
        character of the validation part is unknown.
      train: the training part; "bpe" counts pairs in it alone.
      vocab_size: for "bpe".
      end: whether to add an end-of-document token.
    """
    if name == "bytes":
        from aigc_jax.tokenizers.bytes import BytesTokenizer

        return BytesTokenizer(end)
    if name == "char":
        from aigc_jax.tokenizers import char

        return char.learn(texts, end=end)
    if name == "bpe":
        from aigc_jax.tokenizers import bpe

        return bpe.learn(train, vocab_size=vocab_size, end=end)
    raise ValueError(f"{check_name(name)} is not learned from a text")


def from_dict(saved: dict[str, Any]) -> Tokenizer:
    """Rebuilds a tokenizer from `to_dict()`.

    Raises:
      UserError: the name is unknown or a field is missing.
    """
    name = check_name(str(saved.get("name")))
    module = importlib.import_module(f"aigc_jax.tokenizers.{name}")
    try:
        built: Tokenizer = module.from_dict(saved)
    except (KeyError, TypeError) as error:
        raise UserError(
            f"The saved {name} tokenizer is damaged ({error!r}). Train it anew, or take another "
            "run's tokenizer.json."
        ) from None
    return built


def from_file(path: Path) -> Tokenizer:
    """Reads a `tokenizer.json`; raises UserError when it is missing or damaged."""
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"The tokenizer {path} can't be read: {error}.") from None
    if not isinstance(saved, dict):
        raise UserError(f"{path} is no saved tokenizer: expected a JSON object.")
    return from_dict(saved)
