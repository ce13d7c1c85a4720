"""Sampling against a plain loop over whole passes, and against the distribution itself."""

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
from aigc_jax.generate.decode import choose, windows
from aigc_jax.models.transformer import Transformer
from aigc_jax.tasks import lm

VOCAB, CONTEXT = 13, 8
MODEL = {"layers": 2, "heads": 2, "width": 16}
NETWORK = Transformer(VOCAB, CONTEXT, **MODEL)
FACTS = {"vocab_size": VOCAB, "context": CONTEXT, "token_bytes": np.ones(VOCAB)}
KEY = jax.random.key(5)


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


@settings(deadline=None, max_examples=300)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 200))
def test_the_plan_writes_enough_and_never_leaves_the_context(
    context: int, prompt: int, count: int
) -> None:
    if prompt > context:
        with pytest.raises(UserError, match=f"The prompt has {prompt} tokens; expected 1 to"):
            windows(prompt, count, context)
        return
    plan = windows(prompt, count, context)
    written = [write for _, write in plan]
    assert sum(written) >= count
    assert sum(written[:-1]) < count or not plan  # no call in vain
    assert (plan == []) == (count == 0)
    if plan:
        assert plan[0][0] == prompt  # nothing of the prompt is left out
    there = prompt
    for read, write in plan:
        assert 1 <= read <= there
        assert write >= 1
        assert read + write - 1 <= context  # the last token written needs no place
        there += write
    assert len(set(plan[1:])) <= 1  # one program for all of them
    if prompt + count - 1 <= context:
        assert plan == ([(prompt, count)] if count else [])


def test_an_empty_prompt() -> None:
    with pytest.raises(UserError, match="The prompt has 0 tokens; expected 1 to 8"):
        windows(0, 5, 8)


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
@pytest.mark.parametrize("top_k", [0, 3])
def test_greedy_equals_a_loop_of_whole_passes(
    sample: Any, weights: Weights, logits_after: Any, count: int, top_k: int
) -> None:
    prompts = np.array([[1, 2, 3], [12, 0, 7]], np.int64)
    found = sample(weights, KEY, prompt=prompts, count=count, temperature=0.0, top_k=top_k)
    assert found.dtype == np.int32
    assert found.shape == (2, 3 + count)
    for row, prompt in zip(found.tolist(), prompts.tolist(), strict=True):
        assert row == prompt + greedy(logits_after, prompt, count)
    assert len(set(found[0].tolist())) > 3 or count < 6  # not one token over and over


def test_a_prompt_that_fills_the_context(sample: Any, weights: Weights, logits_after: Any) -> None:
    prompt = list(range(CONTEXT))
    found = sample(weights, KEY, prompt=np.array([prompt]), count=3, temperature=0.0)
    assert found[0].tolist() == prompt + greedy(logits_after, prompt, 3)


def test_the_text_follows_from_the_key(sample: Any, weights: Weights) -> None:
    def text(seed: int, count: int = 20) -> list[int]:
        key = jax.random.key(seed)
        return sample(weights, key, prompt=np.array([[4]]), count=count)[0].tolist()

    assert text(0) == text(0)
    assert text(0) != text(1)
    # Windows and rows draw anew: no stretch of random numbers comes twice.
    flat = jax.tree.map(jnp.zeros_like, weights)
    rows = sample(flat, KEY, prompt=np.zeros((3, 1), int), count=21)[:, 1:]
    pieces = [tuple(row[i : i + 5]) for row in rows.tolist() for i in (0, 8, 13)]
    assert len(set(pieces)) == len(pieces)


def chi_square(drawn: np.ndarray, p: np.ndarray) -> float:
    expected = len(drawn) * p
    return float(((np.bincount(drawn, minlength=len(p)) - expected) ** 2 / expected).sum())


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x.astype(np.float64) - x.max())
    return e / e.sum()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_distribution(temperature: float) -> None:
    logits = np.array([0.3, -1.0, 1.2, 0.0, 0.7, -0.4, 0.1, 0.9], np.float32)
    rows = jnp.broadcast_to(logits, (8000, 8))
    drawn = np.asarray(choose(rows, KEY, temperature=jnp.float32(temperature), top_k=0))
    assert chi_square(drawn, softmax(logits / temperature)) < 29.9  # 7 degrees, p = 1e-4
    assert chi_square(drawn, softmax(logits / temperature / 1.3)) > 60


def test_top_k_draws_among_the_k_likeliest_in_their_proportions() -> None:
    logits = np.array([0.3, -1.0, 1.2, 0.0, 0.7, -0.4, 0.1, 0.9], np.float32)
    rows = jnp.broadcast_to(logits, (8000, 8))
    drawn = np.asarray(choose(rows, KEY, temperature=jnp.float32(1.0), top_k=3))
    assert set(drawn.tolist()) == {2, 4, 7}
    index = np.array([2, 4, 7])
    places = np.searchsorted(index, drawn)
    assert chi_square(places, softmax(logits[index])) < 18.4  # 2 degrees, p = 1e-4
    everything = choose(rows, KEY, temperature=jnp.float32(1.0), top_k=100)  # more than there are
    assert set(np.asarray(everything).tolist()) == set(range(8))
    # Among equals the lower ids: k tokens, never more.
    level = choose(jnp.zeros((500, 8)), KEY, temperature=jnp.float32(1.0), top_k=2)
    assert set(np.asarray(level).tolist()) == {0, 1}


def test_temperature_zero_is_the_likeliest_and_a_small_one_nearly() -> None:
    logits = jax.random.normal(jax.random.key(1), (50, 9))
    for temperature, top_k in ((0.0, 0), (0.0, 4), (1e-5, 0), (1e-12, 0)):
        drawn = choose(logits, KEY, temperature=jnp.float32(temperature), top_k=top_k)
        np.testing.assert_array_equal(drawn, logits.argmax(-1))
        assert drawn.dtype == jnp.int32


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


def test_nothing_to_write_gives_the_prompt_back(sample: Any, weights: Weights) -> None:
    found = sample(weights, KEY, prompt=np.array([[1, 2]]), count=0)
    assert found.tolist() == [[1, 2]]


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"temperature": -0.5}, r"temperature=-0\.5: expected 0 \(greedy\) or above"),
        ({"top_k": -1}, "top_k=-1, count=4: expected 0 or above"),
        ({"count": -1}, "count=-1: expected 0 or above"),
        ({"prompt": np.zeros((1, CONTEXT + 1), int)}, "The prompt has 9 tokens; expected 1 to 8"),
        ({"prompt": np.zeros((1, 0), int)}, "The prompt has 0 tokens"),
    ],
)
def test_wrong_requests(sample: Any, weights: Weights, knobs: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        sample(weights, KEY, **({"prompt": np.array([[1]]), "count": 4} | knobs))
