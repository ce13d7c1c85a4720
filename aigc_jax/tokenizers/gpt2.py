"""GPT-2's own BPE: V = 50,257, built from OpenAI's `encoder.json` and `vocab.bpe`.

The two files come from the data catalogue (`aigc data get gpt2`). Source: Radford et al. 2019.
"""

import json
from pathlib import Path
from typing import Any

from aigc_jax.errors import UserError
from aigc_jax.tokenizers import bpe
from aigc_jax.tokenizers.base import END

FILES = ("encoder.json", "vocab.bpe")


def from_folder(folder: Path) -> bpe.BpeTokenizer:
    """Reads `encoder.json` and `vocab.bpe` in `folder`.

    Raises:
      UserError: a file is missing, or the ids have a gap.
    """
    try:
        vocab: dict[str, int] = json.loads((folder / FILES[0]).read_text(encoding="utf-8"))
        lines = (folder / FILES[1]).read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise UserError(
            f"GPT-2's tokenizer can't be read from {folder}: {error}. "
            "Fetch it anew by `aigc data get gpt2`."
        ) from None
    tokens = sorted(vocab, key=vocab.__getitem__)
    if [vocab[t] for t in tokens] != list(range(len(tokens))):
        raise UserError(f"{folder / FILES[0]} skips ids: expected 0 to {len(tokens) - 1}, each.")
    merges = [line for line in lines if line and not line.startswith("#version")]
    return bpe.BpeTokenizer(tokens, merges, vocab.get(END), "gpt2")


def from_dict(saved: dict[str, Any]) -> bpe.BpeTokenizer:
    """Rebuilds what `to_dict` saved."""
    return bpe.from_dict(saved)
