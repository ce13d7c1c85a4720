"""The mean over a split is the mean over its tokens, and a bit per byte is one of the text."""

import math
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aigc_jax.core import optim
from aigc_jax.core.task import Weights
from aigc_jax.data import text
from aigc_jax.data.base import Data
from aigc_jax.errors import UserError
from aigc_jax.evals import mean, samples
from aigc_jax.models.transformer import Transformer
from aigc_jax.tasks import lm

CONTEXT = 8
MODEL = {"layers": 1, "heads": 2, "width": 8}
# The last tenth, 42 characters or 58 bytes, is the validation part: its last row of 8 is ragged.
TEXT = ("naïve 羊群 went ∑ home 🐑.\n" * 40)[:411]
VALIDATION = TEXT[369:]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return str(path)


def data_of(file: str, batch_size: int, **settings: Any) -> Data:
    return text.make(batch_size=batch_size, seed=0, path=file, context=CONTEXT, **settings)


def context_of(data: Data) -> tuple[Any, Weights]:
    """What evaluators are handed, and a model's weights: the same for every batch size."""
    task = lm.make(data.spec, optim.make(1), {"name": "transformer", **MODEL})
    shapes = jax.eval_shape(
        task.init, jax.random.key(0), {k: jnp.float32(v) for k, v in optim.HYPER.items()}
    )
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda p: jnp.asarray(rng.normal(p.ndim == 1, 0.3, p.shape), p.dtype), shapes.params
    )
    judge = jax.jit(task.eval)
    written: dict[int, str] = {}
    context = SimpleNamespace(
        data=data,
        tokenizer=data.tokenizer,
        eval_batches=lambda w, batch, i, end: (
            1,
            jax.tree.map(lambda m: m[None], judge(w, batch(i, (0, 1)), jax.random.key(0))),
        ),
        finish=task.finish,
        sample=task.sample,
        write_sample=written.__setitem__,
        written=written,
    )
    return context, Weights(params, {})


def plain(weights: Weights, ids: np.ndarray, vocab: int) -> np.ndarray:
    """Nats of each token but the first, in float64, window by window of CONTEXT."""
    network = Transformer(vocab, CONTEXT, **MODEL)
    forward = jax.jit(lambda t: network.apply({"params": weights.params["model"]}, t)[0])
    found = []
    for start in range(0, len(ids) - 1, CONTEXT):
        window = ids[start : start + CONTEXT + 1]
        padded = np.zeros((1, CONTEXT), np.int32)
        padded[0, : len(window) - 1] = window[:-1]
        logits = np.asarray(forward(padded), np.float64)[0, : len(window) - 1]
        log_z = np.log(np.exp(logits).sum(-1))
        found += (log_z - logits[np.arange(len(window) - 1), window[1:]]).tolist()
    return np.array(found)


@pytest.mark.parametrize("tokenizer", ["char", "bytes"])
def test_the_mean_over_a_ragged_split_is_the_plain_mean(file: str, tokenizer: str) -> None:
    answers = []
    for size in (1, 4, 16):  # the last batch of 4 and of 16 is padded with rows
        context, weights = context_of(data_of(file, size, tokenizer=tokenizer))
        answers.append(mean.make(context)(weights, 7))
    ids = context.tokenizer.encode(VALIDATION)
    nats = plain(weights, ids, context.tokenizer.vocab_size)
    assert len(nats) == len(ids) - 1
    assert len(nats) % CONTEXT  # ragged
    # What is predicted: all of the text but what the first token stands for.
    first = len(VALIDATION[0].encode()) if tokenizer == "char" else 1
    bits = nats.sum() / math.log(2) / (len(VALIDATION.encode()) - first)
    expected = {
        "validation/loss": nats.mean(),
        "validation/perplexity": math.exp(nats.mean()),
        "validation/bits_per_byte": bits,
    }
    for found in answers:
        assert found.keys() == {*expected, "validation/accuracy"}
        assert {k: found[k] for k in expected} == pytest.approx(expected, rel=1e-6)
        assert found["validation/accuracy"] == answers[0]["validation/accuracy"]
    # A mean of the batches' means would be another number.
    rows = [nats[i : i + CONTEXT] for i in range(0, len(nats), CONTEXT)]
    assert abs(np.mean([row.mean() for row in rows]) / nats.mean() - 1) > 1e-4


def test_sums_are_taken_in_float64() -> None:
    # 2^24 + 1 is no float32: a float32 sum of ones would stop there.
    class Once:
        batches = 3

        @staticmethod
        def batch(i: int, shard: Any) -> None: ...

    pairs = [(2.0**24, 1.0), (1.0, 1.0), (1.0, 2.0**24)]
    context = SimpleNamespace(
        data=SimpleNamespace(splits={"test": Once}),
        eval_batches=lambda w, b, i, end: (1, {"loss": tuple(np.float32([x]) for x in pairs[i])}),
        finish=lambda means: means,
    )
    found = mean.make(context, split="test")(Weights({}, {}), 0)
    assert found == {"test/loss": (2.0**24 + 2) / (2.0**24 + 2)}
    limited = mean.make(context, split="test", limit=2)(Weights({}, {}), 0)
    assert limited == {"test_first_2/loss": (2.0**24 + 1) / 2}


def test_a_metric_of_no_weight_is_left_out(file: str) -> None:
    context, weights = context_of(data_of(file, 2))
    judge = context.eval_batches

    def weightless(*args: Any) -> Any:
        n, metrics = judge(*args)
        return n, jax.tree.map(lambda x: x * 0, metrics)

    context.eval_batches = weightless
    assert mean.make(context)(weights, 0) == {}


def test_what_the_mean_can_not_do(file: str) -> None:
    context, _ = context_of(data_of(file, 2))
    with pytest.raises(UserError, match="no split 'validaton'; it has train, validation"):
        mean.make(context, split="validaton")
    with pytest.raises(UserError, match="limit=-1: expected 0"):
        mean.make(context, limit=-1)


def test_samples_are_written_with_the_same_key_each_time(file: str) -> None:
    context, weights = context_of(data_of(file, 2))
    write = samples.make(context, prompt="羊", count=20, number=3)
    assert write(weights, 5) == {}
    write(weights, 10)
    assert context.written[5] == context.written[10]
    texts = context.written[5].removesuffix("\n").split("\n\n---\n\n")
    assert len(texts) == len(set(texts)) == 3
    for sample in texts:
        assert len(sample) == 21
        assert sample[0] == "羊"
        assert set(sample) <= set(TEXT)


def test_without_a_prompt_a_sample_begins_as_the_validation_part_does(file: str) -> None:
    data = data_of(file, 2)
    context, weights = context_of(data)
    samples.make(context, count=3, number=1)(weights, 0)
    assert context.written[0][0] == data.tokenizer.decode(data.ids["validation"][:1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompt": "QXZ"}, "characters that the vocabulary lacks: 'Q'"),
        ({"number": 0}, "number=0 samples: expected 1 or more"),
    ],
)
def test_samples_that_can_not_be_drawn_are_refused_at_the_door(
    file: str, settings: dict[str, Any], message: str
) -> None:
    context, _ = context_of(data_of(file, 2))
    with pytest.raises(UserError, match=message):
        samples.make(context, **settings)


def test_a_task_without_samples(file: str) -> None:
    context, _ = context_of(data_of(file, 2))
    context.sample = None
    with pytest.raises(UserError, match="'samples' writes text; this task or its data has none"):
        samples.make(context)
