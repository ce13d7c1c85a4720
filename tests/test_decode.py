"""The engine against a plain loop over whole passes, and rows against each other."""

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aigc_jax.core import optim
from aigc_jax.core.task import Weights
from aigc_jax.data.base import Spec
from aigc_jax.errors import UserError
from aigc_jax.generate.decode import CHUNK, Chunk, Decoding, Programs, Row, bucket, slots
from aigc_jax.generate.logits import Active
from aigc_jax.generate.request import Sampling
from aigc_jax.models.transformer import Transformer
from aigc_jax.tasks import lm

VOCAB, CONTEXT = 13, 8
MODEL = {"layers": 2, "heads": 2, "width": 16}
NETWORK = Transformer(VOCAB, CONTEXT, **MODEL)
FACTS = {"vocab_size": VOCAB, "context": CONTEXT, "token_bytes": np.ones(VOCAB)}
KEY = jax.random.key(5)
Keyed = tuple[Row, jax.Array]
ASKED = Sampling(temperature=0.9, top_k=9, repetition_penalty=1.2)


@pytest.fixture(scope="module")
def weights() -> Weights:
    rng = np.random.default_rng(0)
    tokens = jnp.zeros((1, 2), jnp.int32)
    shapes = jax.eval_shape(NETWORK.init, jax.random.key(0), tokens)["params"]
    # Far from zero, so that what comes next depends on what came before.
    loud = jax.tree.map(
        lambda p: jnp.asarray(rng.normal(p.ndim == 1, 0.4, p.shape), p.dtype), shapes
    )
    return Weights({"model": loud}, {})


@pytest.fixture(scope="module")
def sample() -> Any:
    return lm.make(Spec({}, FACTS), optim.make(1), {"name": "transformer", **MODEL}).sample


@pytest.fixture(scope="module")
def logits_after(weights: Weights) -> Any:
    """The logits after the last token of a row, by a whole pass without a cache."""
    whole = jax.jit(lambda p, t: NETWORK.apply({"params": p}, t)[0])

    def after(row: list[int]) -> np.ndarray:
        padded = jnp.array([row + [0] * (CONTEXT - len(row))], jnp.int32)
        return np.asarray(whole(weights.params["model"], padded))[0, len(row) - 1]

    return after


@pytest.fixture(scope="module")
def programs() -> Programs:
    return Programs(NETWORK)


@pytest.fixture(scope="module")
def write(programs: Programs, weights: Weights) -> Any:
    """Writes rows to their end, and gives what each wrote."""

    def run(rows: list[Keyed], most: int = CHUNK, end: int | None = None) -> list[Any]:
        decoding = begin(programs, weights, rows, end)
        chunks: list[Chunk] = []
        while decoding.live.any():
            chunks.append(decoding.advance(most))
        return [
            SimpleNamespace(**{
                name: np.concatenate([getattr(c, name)[b, : c.valid[b]] for c in chunks])
                for name in ("tokens", "logprobs", "raw")
            })
            for b in range(len(rows))
        ]  # fmt: skip

    return run


def row(prompt: list[int], most: int, seed: int = 0, sampling: Sampling = ASKED) -> Keyed:
    return Row(np.array(prompt), most, sampling), jax.random.key(seed)


def begin(
    programs: Programs, weights: Weights, rows: list[Keyed], end: int | None = None
) -> Decoding:
    plain, keys = zip(*rows, strict=True)
    # All that any test asks for, so that few programs are compiled.
    what = Active(True, True, True, True, True)
    return Decoding(programs, weights.params["model"], plain, jnp.stack(keys), end=end, what=what)


def same(one: Any, other: Any) -> None:
    assert one.tokens.tolist() == other.tokens.tolist()
    np.testing.assert_allclose(one.raw, other.raw, atol=1e-5)
    np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-5)


# --- sizes -----------------------------------------------------------------------------------


@settings(deadline=None, max_examples=300)
@given(st.integers(1, 300), st.data())
def test_the_cache_has_room_until_the_context_is_full(context: int, data: Any) -> None:
    length = data.draw(st.integers(1, context))
    more = data.draw(st.integers(0, 500))
    places = bucket(length, context)
    assert length <= places <= context
    size = slots(places, more, context)
    assert size >= places + min(more, context - length)
    assert size <= max(context, 16, 2 * (places + more))
    # A bucket holds lengths up to twice its shortest, and all of them have one size.
    assert places < 2 * length or places <= 16
    assert {bucket(n, context) for n in range(length, places + 1)} == {places}


# --- against the slow way --------------------------------------------------------------------


def greedy(logits_after: Any, prompt: list[int], count: int) -> list[int]:
    """The slow way: a whole pass a token; the newest half stays when the context is full."""
    row, written = list(prompt), []
    for _ in range(count):
        token = int(logits_after(row).argmax())
        written.append(token)
        row.append(token)
        if len(row) > CONTEXT:
            row = row[-(CONTEXT // 2) :]
    return written


# Up to the brim (3 + 6 - 1 = 8), and three windows beyond it.
@pytest.mark.parametrize("count", [1, 6, 20])
def test_greedy_equals_a_loop_of_whole_passes(
    sample: Any, weights: Weights, logits_after: Any, count: int
) -> None:
    prompts = np.array([[1, 2, 3], [12, 0, 7]], np.int64)
    found = sample(weights, KEY, prompt=prompts, count=count, temperature=0.0, top_k=3)
    assert found.dtype == np.int32
    assert found.shape == (2, 3 + count)
    for tokens, prompt in zip(found.tolist(), prompts.tolist(), strict=True):
        assert tokens == prompt + greedy(logits_after, prompt, count)
    assert len(set(found[0].tolist())) > 3 or count < 6  # not one token over and over


def test_a_prompt_that_fills_the_context(sample: Any, weights: Weights, logits_after: Any) -> None:
    prompt = list(range(CONTEXT))
    found = sample(weights, KEY, prompt=np.array([prompt] * 2), count=20, temperature=0.0)
    assert found[0].tolist() == prompt + greedy(logits_after, prompt, 20)


def test_penalties_count_the_whole_text_not_the_window(write: Any, logits_after: Any) -> None:
    by = Sampling(temperature=0.0, repetition_penalty=1.5, presence_penalty=0.3,
                  frequency_penalty=0.4, logit_bias={4: 1.5, 11: -2.0})  # fmt: skip
    prompt, written, window = [1, 2, 3], [], [1, 2, 3]
    for _ in range(25):
        x = logits_after(window).astype(np.float64)
        for token, value in by.logit_bias.items():
            x[token] += value
        for token in {*prompt, *written}:
            x[token] = x[token] / 1.5 if x[token] > 0 else x[token] * 1.5
        for token in set(written):
            x[token] -= 0.4 * written.count(token) + 0.3
        written.append(int(x.argmax()))
        window.append(written[-1])
        if len(window) > CONTEXT:
            window = window[-(CONTEXT // 2) :]
    (found,) = write([row(prompt, 25, sampling=by)])
    assert found.tokens.tolist() == written
    assert len(set(written)) > 8
    assert set(found.logprobs.tolist()) == {0.0}
    plain = greedy(logits_after, prompt, 25)
    assert plain != written


def test_raw_log_probabilities_are_the_models_own(write: Any, logits_after: Any) -> None:
    (found,) = write([row([7, 1], 6)])
    text = [7, 1]
    for token, raw, logprob in zip(found.tokens, found.raw, found.logprobs, strict=True):
        p = softmax(logits_after(text))
        assert raw == pytest.approx(np.log(p[token]), abs=1e-5)
        assert logprob != pytest.approx(raw, abs=1e-3)
        text.append(int(token))


# --- rows among others -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def mixed() -> list[Keyed]:
    """Unlike lengths, numbers and settings; three windows for most, 31 tokens for the last."""
    return [
        row([1, 2, 3], 30, 0),
        row([4], 25, 1, Sampling(temperature=1.5, repetition_penalty=1.0, top_k=0)),
        row(list(range(8)), 30, 2),
        row([5, 6, 7, 8, 9], 9, 3),
        row([5, 6, 7, 8, 9, 10, 11], 31, 0, Sampling(temperature=0.0)),
    ]


def test_a_row_does_not_depend_on_its_batch(write: Any, mixed: list[Keyed]) -> None:
    together = write(mixed)
    for one, found in zip(mixed, together, strict=True):
        assert len(found.tokens) == one[0].most
        same(write([one])[0], found)
    backwards = write(mixed[::-1])
    for one, found in zip(backwards[::-1], together, strict=True):
        same(one, found)


@pytest.mark.parametrize("most", [1, 3])
def test_a_row_does_not_depend_on_the_number_of_calls(
    write: Any, mixed: list[Keyed], most: int
) -> None:
    for one, other in zip(write(mixed, most), write(mixed), strict=True):
        same(one, other)


def test_the_end_token_ends_its_row_alone(write: Any, mixed: list[Keyed]) -> None:
    whole = write(mixed)
    end = int(whole[0].tokens[4])
    for found, free, one in zip(write(mixed, end=end), whole, mixed, strict=True):
        tokens = free.tokens.tolist()
        upto = tokens.index(end) + 1 if end in tokens else one[0].most
        assert found.tokens.tolist() == tokens[:upto]
    assert len({len(free.tokens) for free in write(mixed, end=end)}) > 2


def test_a_row_that_is_ended_from_outside_leaves_the_others_alone(
    programs: Programs, weights: Weights, write: Any, mixed: list[Keyed]
) -> None:
    decoding = begin(programs, weights, mixed)
    found = []
    while decoding.live[0]:
        chunk = decoding.advance(2)
        found += chunk.tokens[0, : chunk.valid[0]].tolist()
        decoding.live[1:] = False
    assert found == write(mixed)[0].tokens.tolist()


def test_no_program_is_made_for_a_length_or_a_number(weights: Weights) -> None:
    network = Transformer(VOCAB, 64, layers=1, heads=1, width=8)
    programs = Programs(network)
    shapes = jax.eval_shape(network.init, KEY, jnp.zeros((1, 4), jnp.int32))["params"]
    params = jax.tree.map(lambda p: jnp.zeros(p.shape), shapes)

    def run(lengths: list[int], most: int, by: Sampling) -> tuple[int, int]:
        rows = [Row(np.arange(n) % VOCAB, most, by) for n in lengths]
        decoding = Decoding(programs, params, rows, jax.random.split(KEY, len(rows)))
        while decoding.live.any():
            decoding.advance(7)
        return programs.prefill._cache_size(), programs.extend._cache_size()  # type: ignore

    once = run([17], 20, Sampling(temperature=0.5, top_k=3))
    assert once == (1, 1)
    for length, most, by in (
        (18, 20, Sampling(temperature=1.5, top_k=8)),
        (25, 13, Sampling(temperature=0.01, top_k=1)),
        (32, 32, Sampling(temperature=0.7, top_k=12)),
    ):
        assert run([length], most, by) == (1, 1)
    # Three or four rows are another program: the count does count.
    assert run([17, 30, 9], 20, Sampling(top_k=2)) == (2, 2)
    assert run([32, 1, 2, 3], 20, Sampling(top_k=2)) == (2, 2)


# --- keys and distributions ------------------------------------------------------------------


def test_the_text_follows_from_the_key(sample: Any, weights: Weights) -> None:
    def text(seed: int, count: int = 20) -> list[int]:
        key = jax.random.key(seed)
        return sample(weights, key, prompt=np.full((3, 1), 4), count=count).tolist()

    assert text(0) == text(0)
    assert text(0) != text(1)
    assert [row[:15] for row in text(0)] == text(0, 14)
    # Windows and rows draw anew: no stretch of random numbers comes twice.
    flat = jax.tree.map(jnp.zeros_like, weights)
    rows = sample(flat, KEY, prompt=np.zeros((3, 1), int), count=21)[:, 1:]
    pieces = [tuple(row[i : i + 5]) for row in rows.tolist() for i in (0, 8, 13)]
    assert len(set(pieces)) == len(pieces)
    assert (rows[:, [8, 13, 18]] != rows[:, :1]).any()  # the first of each window


def chi_square(drawn: np.ndarray, p: np.ndarray) -> float:
    expected = len(drawn) * p
    return float(((np.bincount(drawn, minlength=len(p)) - expected) ** 2 / expected).sum())


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x.astype(np.float64) - x.max())
    return e / e.sum()


def test_samples_of_a_model_follow_its_own_distribution(
    sample: Any, weights: Weights, logits_after: Any
) -> None:
    found = sample(weights, KEY, prompt=np.full((6000, 2), [3, 9]), count=2, temperature=2.0)
    first = found[:, 2]
    p = softmax(logits_after([3, 9]) / 2.0)
    assert chi_square(first, p) < 39.1  # 12 degrees, p = 1e-4
    # And the second given the first, for the most frequent one.
    most = int(np.bincount(first).argmax())
    second = found[first == most, 3]
    assert len(second) > 800
    assert chi_square(second, softmax(logits_after([3, 9, most]) / 2.0)) < 39.1


# --- refusals --------------------------------------------------------------------------------


def test_nothing_to_write_gives_the_prompt_back(sample: Any, weights: Weights) -> None:
    found = sample(weights, KEY, prompt=np.array([[1, 2]]), count=0)
    assert found.tolist() == [[1, 2]]


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"temperature": -0.5}, r"temperature=-0\.5: expected 0 \(greedy\) or above"),
        ({"temperature": float("nan")}, r"temperature=nan: expected 0 \(greedy\) or above"),
        ({"top_k": -1}, "top_k=-1: expected a whole number, 0 or above"),
        ({"count": -1}, "count=-1: expected 0 or above"),
        ({"prompt": np.zeros((1, CONTEXT + 1), int)}, "The prompt has 9 tokens; expected 1 to 8"),
        ({"prompt": np.zeros((1, 0), int)}, "The prompt has 0 tokens"),
    ],
)
def test_wrong_requests(sample: Any, weights: Weights, knobs: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        sample(weights, KEY, **({"prompt": np.array([[1]]), "count": 4} | knobs))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_weights_that_are_no_numbers(sample: Any, weights: Weights, temperature: float) -> None:
    broken = jax.tree.map(lambda x: x * jnp.nan, weights)
    with pytest.raises(UserError, match="logits are not finite numbers"):
        sample(broken, KEY, prompt=np.ones((4, 1), int), count=9, temperature=temperature)
