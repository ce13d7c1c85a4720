"""Text as it comes: characters in pieces, stop strings across tokens, requests and completions."""

from itertools import pairwise
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aigc_jax.errors import UserError
from aigc_jax.generate.decode import Programs
from aigc_jax.generate.model import Model
from aigc_jax.generate.request import Completion, Request, Sampling, request
from aigc_jax.generate.text import Writer
from aigc_jax.tokenizers import bpe
from aigc_jax.tokenizers.bytes import BytesTokenizer
from aigc_jax.tokenizers.char import CharTokenizer

TOKENIZER = BytesTokenizer(with_end=True)
END = 256
PIECES = TOKENIZER.pieces()


def write(data: bytes, *stop: str) -> tuple[list[str], str | None]:
    """What each byte adds, the close as the last; and why it ended."""
    writer, added = Writer(PIECES, END, stop), []
    for byte in data:
        added.append(writer.write(byte))
        if writer.finish:
            return added, writer.finish
    return [*added, writer.close()], writer.finish


# --- the writer ------------------------------------------------------------------------------


def test_a_character_waits_for_its_last_byte() -> None:
    assert write("a🐑é".encode()) == (["a", "", "", "", "🐑", "", "é", ""], "length")


def test_what_is_no_utf8_becomes_a_replacement() -> None:
    assert write(b"\xff\xf0\x9f\x90")[0] == ["\ufffd", "", "", "", "\ufffd"]
    # A character that breaks off is known to be broken with the next one.
    assert write(b"\xf0\x9fa")[0] == ["", "", "\ufffda", ""]


def test_a_stop_string_spans_tokens_and_is_held_back_while_it_may_come() -> None:
    assert write(b"one\n\ntwo", "\n\n") == (["o", "n", "e", "", ""], "stop")
    assert write(b"one\ntwo", "\n\n") == (["o", "n", "e", "", "\nt", "w", "o", ""], "length")
    assert write(b"xa", "ab") == (["x", "", "a"], "length")
    assert write("🐑🐐!".encode(), "🐐")[0] == ["", "", "", "🐑", "", "", "", ""]
    # "aab" after "aaa": what can't be its beginning any more is let go.
    assert write(b"aaab", "aab") == (["", "", "a", ""], "stop")


def test_of_several_stop_strings_the_first_complete_counts() -> None:
    assert "".join(write(b"abc", "b", "abc")[0]) == "a"
    assert "".join(write(b"abc", "bc", "abc")[0]) == ""
    # In one token as in three.
    writer = Writer([b"abc"], None, ("abc", "b"))
    assert (writer.write(0), writer.finish) == ("a", "stop")


def test_the_end_token_lets_go_of_what_was_held() -> None:
    writer = Writer(PIECES, END, ("ab",))
    assert [writer.write(t) for t in (ord("a"), 0xF0, END)] == ["", "", "a\ufffd"]
    assert writer.finish == "end"
    assert writer.close() == ""
    writer = Writer(PIECES, END, ("ab",))
    assert [writer.write(ord("a")), writer.write(END)] == ["", "a"]


def oracle(text: str, stop: list[str]) -> str:
    """The text before the stop string that is complete first, character by character."""
    for size in range(1, len(text) + 1):
        found = [size - len(s) for s in stop if text[:size].endswith(s)]
        if found:
            return text[: min(found)]
    return text


@settings(deadline=None, max_examples=400)
@given(
    st.text("ab🐑é\n", max_size=12),
    st.lists(st.text("ab🐑\n", min_size=1, max_size=3), max_size=3),
    st.data(),
)
def test_the_pieces_add_up_to_the_whole(text: str, stop: list[str], data: Any) -> None:
    raw = text.encode()
    cuts = sorted(data.draw(st.sets(st.integers(0, len(raw)))) | {0, len(raw)})
    pieces = [raw[a:b] for a, b in pairwise(cuts)]  # tokens of many bytes
    writer, found = Writer(pieces, None, stop), ""
    for token in range(len(pieces)):
        found += writer.write(token)
        assert oracle(text, stop).startswith(found), "let go too early"
        if writer.finish:
            break
    found += writer.close()
    assert found == oracle(text, stop)
    assert writer.finish == ("length" if found == text else "stop")


@given(st.binary(max_size=10))
def test_any_bytes_give_what_decode_gives(data: bytes) -> None:
    assert "".join(write(data)[0]) == TOKENIZER.decode(list(data))


@pytest.mark.parametrize(
    "tokenizer",
    [
        BytesTokenizer(),
        TOKENIZER,
        CharTokenizer(" abé🐑", with_end=True),
        bpe.learn(["naïve 羊群 naïve 羊群 🐑🐑"], vocab_size=270, end=True),
    ],
)
def test_the_pieces_of_a_tokenizer_are_what_it_decodes(tokenizer: Any) -> None:
    pieces = tokenizer.pieces()
    assert len(pieces) == tokenizer.vocab_size
    for i, size in enumerate(tokenizer.token_bytes()):
        assert len(pieces[i]) == size or i == tokenizer.end
    ids = [*tokenizer.encode("a"), *range(tokenizer.vocab_size)]
    assert b"".join(pieces[i] for i in ids).decode(errors="replace") == tokenizer.decode(ids)


# --- requests --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"prompt": ""}, "The prompt is empty; expected at least one character."),
        ({"prompt": 3}, "prompt=3: expected a text."),
        ({"n": 0}, "n=0: expected a whole number, 1 or above."),
        ({"n": True}, "n=True: expected a whole number, 1 or above."),
        ({"n": 1.5}, "n=1.5: expected a whole number"),
        ({"max_tokens": 0}, "max_tokens=0: expected a whole number, 1 or above."),
        ({"temperature": -0.1}, "temperature=-0.1: expected 0 (greedy) or above."),
        ({"temperature": "1"}, "temperature='1': expected 0 (greedy) or above."),
        ({"temperature": float("inf")}, "temperature=inf: expected"),
        ({"temperature": 10**400}, "expected 0 (greedy) or above."),
        ({"top_k": -1}, "top_k=-1: expected a whole number, 0 or above."),
        ({"top_p": 0.0}, "top_p=0.0: expected a number in (0, 1]."),
        ({"top_p": 1.01}, "top_p=1.01: expected a number in (0, 1]."),
        ({"min_p": -0.1}, "min_p=-0.1: expected a number in [0, 1]."),
        ({"min_p": 1.1}, "min_p=1.1: expected a number in [0, 1]."),
        ({"repetition_penalty": 0}, "repetition_penalty=0: expected a number above 0"),
        ({"presence_penalty": float("nan")}, "presence_penalty=nan: expected a finite number"),
        ({"frequency_penalty": None}, "frequency_penalty=None: expected a finite number"),
        ({"logit_bias": 4}, "logit_bias=4: expected {id: number}."),
        ({"logit_bias": {"x": 1}}, "logit_bias: id 'x': expected a token's id, 0 or above."),
        ({"logit_bias": {-1: 1}}, "logit_bias: id -1: expected a token's id"),
        ({"logit_bias": {1: float("inf")}}, "logit_bias: 1=inf: expected a finite number."),
        ({"stop": ("a", "")}, "A stop string is empty; expected at least one character in each."),
        ({"stop": ""}, "A stop string is empty"),
        ({"stop": 5}, "stop=5: expected texts."),
        ({"seed": -1}, "seed=-1: expected a whole number from 0 to 4294967295."),
        ({"temprature": 1}, "A request has no 'temprature'. Did you mean 'temperature'?"),
    ],
)
def test_a_wrong_request_is_answered_in_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        request({"prompt": "a", **values})
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_plain_values_as_json_has_them() -> None:
    made = request({"prompt": "a", "stop": ["x", "y"], "logit_bias": {"7": -1}, "top_p": 1})
    assert made == Request("a", stop=("x", "y"), logit_bias={7: -1}, top_p=1)
    assert request({"prompt": "a", "stop": "xy"}).stop == ("xy",)
    with pytest.raises(UserError, match="A request has no prompt"):
        request({"n": 1})


def test_the_ids_of_a_bias_are_held_against_the_vocabulary() -> None:
    Sampling(logit_bias={256: 1.0}).check(257)
    with pytest.raises(UserError, match="id 257: expected a token's id, 0 to 256, the vocabulary"):
        Sampling(logit_bias={257: 1.0}).check(257)


# --- a model ---------------------------------------------------------------------------------


class Place(NamedTuple):
    """The cache of a network that only counts: where it is, and where each row begins."""

    length: jax.Array
    start_B: jax.Array


class Script:
    """A network that wants to say one text, each byte at its position, whatever stands before."""

    def __init__(self, text: bytes, context: int, sure: float) -> None:
        self.vocab_size, self.context = 257, context
        wanted = np.frombuffer(text.ljust(2 * context, b"."), np.uint8).astype(int)
        wanted[len(text)] = END
        self.table = jnp.asarray(sure * np.eye(257, dtype=np.float32)[wanted])

    def empty_cache(self, batch: int, size: int, start_B: jax.Array) -> Place:
        return Place(jnp.int32(0), start_B)

    def prepared(self, params: Any, rows: int) -> dict[str, Any]:
        return {}

    def apply(self, params: Any, tokens: jax.Array, *, cache: Place, last: bool) -> Any:
        assert last
        length = cache.length + tokens.shape[1]
        places = length - cache.start_B - 1
        return self.table[places][:, None] + params["params"], Place(length, cache.start_B)


def model(text: str | bytes, sure: float = 50.0, context: int = 64) -> Model:
    raw = text.encode() if isinstance(text, str) else text
    return Model(Programs(Script(raw, context, sure)), jnp.zeros(()), TOKENIZER)


STORY = "once, a 🐑 met a 🐐; the end\nagain"


@pytest.fixture(scope="module")
def teller() -> Model:
    return model(STORY)


def test_a_text_ends_with_the_end_token_a_stop_string_or_its_length(teller: Model) -> None:
    (whole,) = teller.generate("p", max_tokens=60)
    assert (whole.text, whole.finish_reason) == (STORY, "end")
    assert whole.tokens == (*STORY.encode(), END)
    assert len(whole.logprobs) == len(whole.raw_logprobs) == len(whole.tokens)
    (cut,) = teller.generate("p", max_tokens=9)  # in the middle of the sheep
    assert (cut.text, cut.finish_reason) == ("once, a \ufffd", "length")
    assert len(cut.tokens) == 9
    (stopped,) = teller.generate("p", stop="🐐; the")
    assert (stopped.text, stopped.finish_reason) == ("once, a 🐑 met a ", "stop")
    # The tokens go on to the one that completed it, and not to the next look.
    assert bytes(stopped.tokens).decode() == "once, a 🐑 met a 🐐; the"
    assert len(stopped.logprobs) == len(stopped.raw_logprobs) == len(stopped.tokens)


def drain(stream: Any) -> tuple[list[str], Completion]:
    pieces = []
    while True:
        try:
            pieces.append(next(stream))
        except StopIteration as done:
            return pieces, done.value


@pytest.mark.parametrize("stop", [(), ("again",), ("zzz", "🐐")])
def test_a_stream_adds_up_to_the_whole(teller: Model, stop: tuple[str, ...]) -> None:
    pieces, completion = drain(teller.stream("p", stop=stop, max_tokens=50))
    assert [completion] == teller.generate("p", stop=stop, max_tokens=50)
    assert "".join(pieces) == completion.text
    assert all(pieces)
    assert len(pieces) > 3
    assert not any("\ufffd" in piece for piece in pieces)


@pytest.fixture(scope="module")
def dreamer() -> Model:
    """Says anything at all, broken characters among it, past its context too."""
    return model(b"", sure=0.0, context=16)


def test_a_stream_of_anything_adds_up_too(dreamer: Model) -> None:
    for seed in range(4):
        asked = Request("p", max_tokens=90, seed=seed, temperature=1.0, stop=("\n", "7"))
        pieces, completion = drain(dreamer.stream(asked))
        assert "".join(pieces) == completion.text
        assert [completion] == dreamer.generate(asked)


def test_texts_follow_from_their_requests_alone(dreamer: Model) -> None:
    asked = [
        Request("one", n=3, max_tokens=30),
        Request("two", n=2, max_tokens=20, seed=4, temperature=1.2),
        Request("one", max_tokens=30),
    ]
    found = dreamer.generate(asked)
    assert [(c.prompt, c.index, c.seed) for c in found] == [
        ("one", 0, 0), ("one", 1, 0), ("one", 2, 0), ("two", 0, 4), ("two", 1, 4), ("one", 0, 0),
    ]  # fmt: skip
    assert len({c.tokens for c in found}) == 5
    assert found[0] == found[5]
    assert dreamer.generate(asked, batch_size=2) == found
    assert dreamer.generate("one", n=3, max_tokens=30) == found[:3]
    assert dreamer.generate(asked[1]) == found[3:5]
    assert dreamer.generate(asked[0], seed=1)[0].text != found[0].text


def test_the_log_probabilities_of_greedy_and_of_flat(teller: Model, dreamer: Model) -> None:
    (sure,) = teller.generate("p", temperature=0.0, max_tokens=5)
    assert sure.logprobs == (0.0,) * 5
    np.testing.assert_allclose(sure.raw_logprobs, 0, atol=1e-6)
    (flat,) = dreamer.generate("p", max_tokens=5, logit_bias={65: 100.0})
    assert flat.text == "AAAAA"
    np.testing.assert_allclose(flat.logprobs, 0, atol=1e-6)
    np.testing.assert_allclose(flat.raw_logprobs, -np.log(257), rtol=1e-6)


def test_what_a_model_refuses(teller: Model) -> None:
    with pytest.raises(UserError, match="has 65 tokens; the model's context is 64"):
        teller.generate(["a", "b" * 65])
    with pytest.raises(UserError, match="The prompt is empty"):
        teller.generate(["a", ""])
    with pytest.raises(UserError, match="The prompt is empty"):
        teller.generate(Request(""))
    with pytest.raises(UserError, match="id 257: expected a token's id, 0 to 256"):
        teller.generate("a", logit_bias={257: 1.0})
    with pytest.raises(UserError, match="n=2: expected 1; one text at a time"):
        teller.stream("a", n=2)
    with pytest.raises(UserError, match="batch_size=0: expected 1 or more"):
        teller.generate("a", batch_size=0)
    assert teller.generate([]) == []


def test_an_unwritten_batch_costs_nothing(teller: Model) -> None:
    first = next(iter(teller.each(["a", "b", "c"], batch_size=1, max_tokens=3)))
    assert first == teller.generate("a", max_tokens=3)[0]
    assert isinstance(first, Completion)
    assert SimpleNamespace(**vars(first)).index == 0
