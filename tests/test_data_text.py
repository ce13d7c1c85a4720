"""Text of the user's own: splits, the cache, documents, floors, and bad input."""

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aigc_jax.data import lm, store, text
from aigc_jax.data.base import Data
from aigc_jax.errors import StorageError, UserError

WORDS = "Wer reitet so spät durch Nacht und Wind? 道可道 😀\n"
ALL = (0, 1)


@pytest.fixture(autouse=True)
def _folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIGC_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("AIGC_DATA", raising=False)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "text.txt"
    lines = [f"{i} {WORDS}" for i in range(100)]
    file.write_text("".join(lines), encoding="utf-8")
    return file


def make(path: Path | str, **settings: Any) -> Data:
    return text.make(**{"batch_size": 4, "seed": 1, "path": str(path), "context": 8, **settings})


def all_targets(data: Data, part: str) -> list[int]:
    split = data.splits[part]
    batches = [split.batch(i, ALL) for i in range(split.batches)]
    return [t for b in batches for t in b["targets"][b["mask"] == 1].tolist()]


@pytest.mark.parametrize("tokenizer", ["char", "bytes", "bpe"])
def test_first_nine_tenths_of_the_characters_are_trained_on(path: Path, tokenizer: str) -> None:
    whole = path.read_bytes().decode()
    cut = int(len(whole) * 0.9)
    data = make(path, tokenizer=tokenizer, vocab_size=280)
    assert data.tokenizer is not None
    for part, piece in (("train", whole[:cut]), ("validation", whole[cut:])):
        ids = data.tokenizer.encode(piece)
        assert all_targets(data, part) == ids[1:].tolist()
        assert data.spec.facts["tokens"][part] == len(ids)
    assert data.spec.facts["vocab_size"] == data.tokenizer.vocab_size


def test_spec_and_batch_agree(path: Path) -> None:
    for settings in ({}, {"documents": "lines"}):
        data = make(path, **settings)
        batch = data.batch(0, ALL)
        assert {n: (a.shape, a.dtype.name) for n, a in batch.items()} == data.spec.arrays
        assert ("segments" in batch) == bool(settings)
    facts = data.spec.facts
    assert (facts["context"], facts["unit"], facts["source"]) == (8, "tokens", str(path))
    assert data.tokenizer is not None
    np.testing.assert_array_equal(facts["token_bytes"], data.tokenizer.token_bytes())


def test_random_order_crops_the_training_part_only(tmp_path: Path) -> None:
    file = tmp_path / "t.txt"
    file.write_text("a" * 90 + "b" * 10)
    for order in ("random", "epochs"):
        data = make(file, order=order)
        assert all(data.batch(step, ALL)["targets"].max() == 0 for step in range(50))


def test_line_ends_and_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "t.txt"
    file.write_bytes(b"\xef\xbb\xbf" + b"ab\r\n" * 30)
    data = make(file)
    assert data.tokenizer is not None
    assert data.tokenizer.decode(range(data.tokenizer.vocab_size)) == "\n\rab"


def test_folder_is_read_in_sorted_order(tmp_path: Path) -> None:
    for name, content in {
        "b.md": "B",
        "a/z.TXT": "A",
        "c.txt": "C",
        "c.py": "?",
        ".x/h.txt": "?",
    }.items():
        file = tmp_path / "texts" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content * 20)
    data = make(tmp_path / "texts", train_share=0.5)
    assert data.tokenizer is not None
    parts = [data.tokenizer.decode(all_targets(data, part)) for part in ("train", "validation")]
    # 62 characters, cut in the middle; the first of each part is not predicted
    assert parts == ["A" * 19 + "\n" + "B" * 10, "B" * 9 + "\n" + "C" * 20]


def test_text_is_tokenized_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = make(path)
    monkeypatch.setattr(text, "read_text", lambda p: pytest.fail("read again"))
    again = make(path, seed=2, context=16, batch_size=8)
    assert again.fingerprint == first.fingerprint
    assert again.spec.facts["floors"] == first.spec.facts["floors"]
    monkeypatch.undo()


def test_fingerprint_follows_content_and_settings(path: Path, tmp_path: Path) -> None:
    prints = [
        make(path, **s).fingerprint
        for s in (
            {},
            {"tokenizer": "bytes"},
            {"tokenizer": "bpe"},
            {"tokenizer": "bpe", "vocab_size": 300},
            {"train_share": 0.8},
            {"documents": "lines"},
            {"documents": "lines", "end_token": False},
            {"documents": "lines", "split_seed": 1},
            {"documents": "lines", "split_seed": 2},
        )
    ]
    content = path.read_bytes()
    path.write_bytes(b"!" + content[1:])
    prints.append(make(path).fingerprint)
    assert len(set(prints)) == len(prints)
    moved = tmp_path / "elsewhere.txt"
    moved.write_bytes(content)
    assert make(moved, vocab_size=999).fingerprint == prints[0]  # 999 means nothing to "char"


@pytest.mark.parametrize("file", ["meta.json", "train.npy", "validation.npy"])
def test_damaged_cache_is_made_anew(path: Path, file: str) -> None:
    expected = make(path).batch(0, ALL)["inputs"]
    (found,) = (store.cache_root() / "tokens").glob(f"*/{file}")
    found.write_bytes(found.read_bytes()[:100])
    np.testing.assert_array_equal(make(path).batch(0, ALL)["inputs"], expected)
    assert found.stat().st_size > 100


def test_broken_off_tokenizing_leaves_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(lm, "_floors", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make(path)
    assert [p.suffix for p in (store.cache_root() / "tokens").iterdir()] == [".lock"]
    monkeypatch.undo()
    make(path)


def test_documents_end_with_a_token_of_their_own(tmp_path: Path) -> None:
    file = tmp_path / "names.txt"
    file.write_text("".join(f"{n}\n" for n in ["emma", "olivia", "ava", "mia", "zoe"] * 4))
    data = make(file, documents="lines")
    assert data.tokenizer is not None
    end = data.tokenizer.end
    assert end is not None
    names = ["emma", "olivia", "ava", "mia", "zoe"] * 4
    # 17 names end within nine tenths of the 76 letters, 68.4; the next one would end at 70.
    expected = [n for name in names[:17] for n in [end, *data.tokenizer.encode(name)]] + [end]
    assert all_targets(data, "train") == expected[1:]
    ended = data.splits["train"].batch(0, ALL)
    assert (ended["inputs"][ended["positions"] == 0][1:] != end).any()  # rows begin inside a name
    inside = ended["segments"][:, 1:] != ended["segments"][:, :-1]
    assert (ended["inputs"][:, 1:][inside] == end).all()


def test_without_an_end_token_no_first_token_is_predicted(tmp_path: Path) -> None:
    file = tmp_path / "names.txt"
    file.write_text("Xab\n" * 20)
    data = make(file, documents="lines", end_token=False)
    assert data.tokenizer is not None
    assert data.tokenizer.decode(all_targets(data, "train")) == "ab" * 18
    assert data.tokenizer.end is None


WAYS = {
    "files": ["one\ntwo\n\n\nthree#four", "#five\r\n\r\nsix\n\n"],
    "lines": ["one", "two", "three#four", "#five", "six"],
    "paragraphs": ["one\ntwo", "three#four", "#five", "six"],
    "#": ["one\ntwo\n\n\nthree", "four", "five\r\n\r\nsix\n\n"],
    r"o\n": ["one\ntw", "\n\nthree#four", "#five\r\n\r\nsix\n\n"],
}


@pytest.mark.parametrize(("documents", "expected"), WAYS.items())
def test_ways_to_cut_documents(tmp_path: Path, documents: str, expected: list[str]) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.txt").write_text("one\ntwo\n\n\nthree#four")
    (tmp_path / "d" / "b.txt").write_bytes(b"#five\r\n\r\nsix\n\n")
    source = text._source(str(tmp_path / "d"), documents)
    assert source.read().train == expected


def test_shuffled_split_keeps_every_document(path: Path) -> None:
    plain, mixed = make(path, documents="lines"), make(path, documents="lines", split_seed=3)
    both = [sorted(all_targets(d, "train") + all_targets(d, "validation")) for d in (plain, mixed)]
    assert both[0] == both[1]
    assert all_targets(plain, "validation") != all_targets(mixed, "validation")


def test_floors_by_hand(tmp_path: Path) -> None:
    file = tmp_path / "t.txt"
    file.write_text("a" * 60 + "b" * 30 + "abbbbbbbbc")
    floors = make(file).spec.facts["floors"]
    # counts plus one: a 61, b 31, c 1, of 93; the first validation token is not predicted
    expected = -(8 * math.log(31 / 93) + math.log(1 / 93)) / 9
    assert floors["unigram"] == pytest.approx(expected, rel=1e-12)
    assert floors["uniform"] == pytest.approx(math.log(3), rel=1e-12)


def test_a_saved_tokenizer_is_used_and_must_fit(path: Path, tmp_path: Path) -> None:
    saved = tmp_path / "tokenizer.json"
    saved.write_text('{"name": "char", "symbols": "abc", "end": false}')
    fitting = tmp_path / "fits.txt"
    fitting.write_text("abacab" * 20)
    assert make(fitting, tokenizer=str(saved)).spec.facts["vocab_size"] == 3
    with pytest.raises(UserError, match=r"lacks: '0' \(U\+0030\)"):
        make(path, tokenizer=str(saved))
    with pytest.raises(UserError, match="has no end token"):
        make(fitting, tokenizer=str(saved), documents="ab")


def refused(match: str, path: Path | str, **settings: Any) -> None:
    with pytest.raises(UserError, match=match) as caught:
        make(path, **settings)
    assert "\n" not in str(caught.value)


def test_bad_texts(tmp_path: Path) -> None:
    refused("Did you mean 'shakespeare'", "shakespear")
    refused("No file, folder or text", tmp_path / "none.txt")
    file = tmp_path / "t.txt"
    file.write_text("")
    refused("is empty", file)
    file.write_bytes(b"ok \xc3\xa9" * 40 + b"\xff\xfe")
    refused("not UTF-8: byte 200 is 0xff", file)
    file.write_text("0123456789")
    refused("its train part has 9 tokens, expected at least 10 for data.context=9", file, context=9)
    make(file, context=7, train_share=0.8)
    refused("validation part has 1 tokens, expected at least 2", file, context=4)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.py").write_text("no text")
    refused("has no text", tmp_path / "d")
    refused("1 document; expected at least 2", file, documents="lines")


def test_bad_settings(path: Path) -> None:
    refused("Did you mean 'epochs'", path, order="epoch")
    refused("Did you mean 'char'", path, tokenizer="chars")
    refused("data.train_share is 1", path, train_share=1.0)
    refused("data.context is 0", path, context=0)
    refused("run.batch_size is 0", path, batch_size=0)
    refused("vocab_size=9", path, tokenizer="bpe", vocab_size=9)
    refused("data.documents is empty", path, documents="")
    with pytest.raises(UserError, match="4 can't be divided among 3 hosts"):
        make(path).splits["validation"].batch(0, (0, 3))


def test_full_or_read_only_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(StorageError, match="No space left on device"):
        make(path)


def test_a_batch_costs_little(path: Path) -> None:
    for settings in ({}, {"order": "epochs"}, {"documents": "lines"}):
        data = make(path, batch_size=12, context=64, **settings)
        data.batch(0, ALL)
        best = math.inf
        for begin in range(0, 1000, 100):
            start = time.perf_counter()
            for step in range(begin, begin + 100):
                data.batch(step, ALL)
            best = min(best, (time.perf_counter() - start) / 100)
        # Measured 20 to 90 us; a loop over tokens takes 1000.
        assert best < 400e-6
