"""The VQ-VAE: quantizing, the codebook, its codes as data for a language model."""

import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from autoencoder import batch_of, context_of, random_weights, state_of, task_of

from aigc_jax.core import optim
from aigc_jax.core.task import Weights
from aigc_jax.data import codes
from aigc_jax.errors import UserError
from aigc_jax.evals import latents
from aigc_jax.models import vq
from aigc_jax.tasks import lm

NETWORK = {"name": "vq_conv", "patch": 2, "code_width": 3, "width": 4, "layers": 1}


def test_the_nearest_code_and_its_gradient() -> None:
    rng = np.random.default_rng(0)
    z, book = rng.normal(size=(50, 3)), rng.normal(size=(7, 3))
    plain = np.square(z[:, None] - book[None]).sum(-1).argmin(1)
    np.testing.assert_array_equal(vq.nearest(jnp.float32(z), jnp.float32(book)), plain)
    quantized = jnp.float32(book[plain])
    found = vq.straight_through(jnp.float32(z), quantized)
    np.testing.assert_allclose(found, quantized, atol=1e-6)
    weight = jnp.asarray(rng.normal(size=z.shape), jnp.float32)

    def total(z: jax.Array, q: jax.Array) -> jax.Array:
        return (vq.straight_through(z, q) ** 2 * weight).sum()

    slope, none = jax.grad(total, (0, 1))(jnp.float32(z), quantized)
    np.testing.assert_allclose(slope, 2 * quantized * weight, rtol=1e-4, atol=1e-5)
    assert not none.any()


def test_the_codebook_equals_its_float64_twin() -> None:
    rng = np.random.default_rng(1)
    book = vq.init(jax.random.key(0), 4, 2)
    vectors = np.asarray(book.vectors_KD, np.float64)
    counts, sums = np.zeros(4), np.zeros((4, 2))
    for _ in range(3):
        z, weight = rng.normal(size=(9, 2)), np.array([1.0] * 7 + [0.0] * 2)
        chosen = rng.integers(0, 3, 9)  # the last code is never chosen
        book = vq.moved(
            book, jnp.float32(z), jnp.asarray(chosen), jnp.float32(weight), jnp.float32(0.9)
        )
        for k in range(4):
            mine = (chosen == k) * weight
            counts[k] = 0.9 * counts[k] + 0.1 * mine.sum()
            sums[k] = 0.9 * sums[k] + 0.1 * (mine[:, None] * z).sum(0)
            vectors[k] = sums[k] / counts[k] if counts[k] else vectors[k]
    np.testing.assert_allclose(book.counts_K, counts, rtol=1e-5)
    np.testing.assert_allclose(book.sums_KD, sums, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(book.vectors_KD, vectors, rtol=1e-5, atol=1e-6)


def test_dead_codes_begin_anew_by_the_key() -> None:
    rng = np.random.default_rng(2)
    z = jnp.asarray(rng.normal(size=(12, 2)), jnp.float32)
    weight = jnp.array([1.0] * 8 + [0.0] * 4)
    book = vq.Codebook(jnp.ones((4, 2)), jnp.array([5.0, 0.1, 0.9, 0.0]), jnp.ones((4, 2)))

    def after(key: int, share: float) -> vq.Codebook:
        return vq.restarted(book, z, weight, jax.random.key(key), jnp.float32(share))

    one = after(0, 0.25)  # the average is 8 / 4 = 2, so below 0.5
    np.testing.assert_array_equal(one.counts_K, [5.0, 2.0, jnp.float32(0.9), 2.0])
    np.testing.assert_array_equal(one.vectors_KD[jnp.array([0, 2])], jnp.ones((2, 2)))
    for k in (1, 3):
        assert (np.asarray(one.vectors_KD[k]) == np.asarray(z[:8])).all(1).any()
        np.testing.assert_allclose(one.sums_KD[k] / one.counts_K[k], one.vectors_KD[k], rtol=1e-6)
    again, other = after(0, 0.25), after(1, 0.25)
    np.testing.assert_array_equal(one.vectors_KD, again.vectors_KD)
    assert (one.vectors_KD != other.vectors_KD).any()
    for kept, given in zip(after(0, 0.0), book, strict=True):
        np.testing.assert_array_equal(kept, given)
    # Every real row may be drawn, and no other.
    drawn = {tuple(x) for k in range(40) for x in np.asarray(after(k, 0.25).vectors_KD)[[1, 3]]}
    assert drawn == {tuple(x) for x in np.asarray(z[:8])}


def test_how_many_codes_are_in_use() -> None:
    np.testing.assert_allclose(vq.perplexity(jnp.array([2.0, 2.0, 0.0, 2.0])), 3.0, rtol=1e-6)
    assert float(vq.perplexity(jnp.zeros(3))) == 1.0


@pytest.fixture(scope="module")
def made() -> Any:
    task = task_of("vqvae", model=NETWORK, codes=5)
    return task, jax.jit(task.step)


def test_a_step_learns_the_codebook_and_uses_all_of_it(made: Any) -> None:
    task, step = made
    weights = random_weights(task, "vqvae")
    state = state_of(task, "vqvae").replace(params=weights.params)
    # No code was ever chosen: all begin as vectors of the first batch.
    new, metrics = step(state, batch_of(8))
    means = {k: float(a / b) for k, (a, b) in metrics.items()}
    assert means["loss"] == pytest.approx(means["reconstruction"] + 0.25 * means["commitment"])
    assert means["kl"] == pytest.approx(4 * math.log(5))
    assert means["nll_bound"] == pytest.approx(means["reconstruction"] + means["kl"])
    for _ in range(20):
        new, metrics = step(new, batch_of(8))
    assert float(metrics["code_perplexity"][0]) > 2
    book = new.vars["codebook"]
    np.testing.assert_allclose(
        book["vectors_KD"], book["sums_KD"] / book["counts_K"][:, None], rtol=1e-4, atol=1e-6
    )
    # The same key, the same codes.
    twice, _ = step(state, batch_of(8))
    thrice, _ = step(state, batch_of(8))
    np.testing.assert_array_equal(
        twice.vars["codebook"]["vectors_KD"], thrice.vars["codebook"]["vectors_KD"]
    )


def test_the_encoder_learns_through_the_codes_and_by_commitment(made: Any) -> None:
    task, step = made
    weights = random_weights(task, "vqvae")
    book = random_weights(task, "vqvae", seed=1).vars["codebook"]
    book = {**book, "counts_K": np.full(5, 1e3, np.float32)}
    moved = []
    for commitment in (0.0, 10.0):
        state = state_of(task, "vqvae", commitment=commitment)
        state = state.replace(params=weights.params, vars={"codebook": book})
        new, _ = step(state, batch_of(4))
        before, after = (s.params["model"]["to_code"]["kernel"] for s in (state, new))
        moved.append(np.asarray(after) - np.asarray(before))
    assert (moved[0] != 0).all()  # straight through
    assert np.abs(moved[0] - moved[1]).max() > 1e-4


def test_codes_and_back(made: Any) -> None:
    task, _ = made
    weights, batch = random_weights(task, "vqvae"), batch_of(3)
    found = task.functions["codes"](weights, batch)
    assert found.shape == (3, 4)
    assert found.dtype == jnp.int32
    back = task.functions["decode_codes"](weights, found)
    again = task.functions["reconstruct"](weights, batch, jax.random.key(0))
    np.testing.assert_allclose(back, again, rtol=1e-5, atol=1e-6)
    assert back.shape == (3, 4, 4, 1)
    # A code out of the book's range (a prior's first token) becomes the last one.
    np.testing.assert_array_equal(
        task.functions["decode_codes"](weights, found.at[0, 0].set(7)),
        task.functions["decode_codes"](weights, found.at[0, 0].set(4)),
    )
    assert task.functions["features"](weights, batch).shape == (3, 12)
    context = context_of(task, batch)
    latents.make(context, split="test", number=2)(weights, 1)
    assert list(context.drawn) == [(1, "reconstructions")]


def test_codes_are_read_row_by_row_and_see_their_neighbours() -> None:
    wide = task_of(
        "vqvae", facts={"shape": (4, 12, 1), "classes": 0}, model={**NETWORK, "layers": 0}
    )
    weights, batch = random_weights(wide, "vqvae"), batch_of(1, shape=(4, 12, 1))
    other = {**batch, "x": batch["x"].copy()}
    other["x"][0, :2, :2] *= -1
    one, two = (
        np.asarray(wide.functions["features"](weights, b)).reshape(12, 3) for b in (batch, other)
    )
    # Of 2 x 6 places the corner and what touches it.
    assert np.flatnonzero((one != two).any(1)).tolist() == [0, 1, 6, 7]


def test_what_does_not_fit_is_refused() -> None:
    for settings, message in (
        ({"codes": 1}, "task.codes=1: expected 2"),
        ({"binarize": "dynamic"}, "binarize='dynamic' makes bits"),
        ({"model": {**NETWORK, "patch": 3}}, "patch=3: it has to divide both sides"),
    ):
        with pytest.raises(UserError, match=message):
            task_of("vqvae", **{"model": NETWORK, **settings})


def folder(path: Path) -> tuple[Path, np.ndarray]:
    """Rows that a prior can learn: code t is (label + t) mod 5."""
    labels = np.arange(30) % 3
    rows = ((labels[:, None] + np.arange(4)[None]) % 5).astype(np.uint8)
    np.save(path / "train.npy", rows[:24])
    np.save(path / "validation.npy", rows[24:].reshape(6, 2, 2))
    np.save(path / "train_labels.npy", labels[:24])
    np.save(path / "validation_labels.npy", labels[24:])
    return path, rows


def test_rows_of_codes_are_shifted_behind_their_first_token(tmp_path: Path) -> None:
    path, rows = folder(tmp_path)
    data = codes.make(batch_size=4, seed=0, path=str(path), codes=6, labels=True)
    facts = data.spec.facts
    assert (facts["vocab_size"], facts["context"], facts["codes"]) == (9, 4, 6)
    assert facts["tokens"] == {"train": 96, "validation": 24}
    seen = [data.splits["validation"].batch(i, (0, 1)) for i in range(2)]
    targets = np.concatenate([b["targets"] for b in seen])
    np.testing.assert_array_equal(targets[:6], rows[24:])
    inputs = np.concatenate([b["inputs"] for b in seen])[:6]
    np.testing.assert_array_equal(inputs[:, 0], 6 + np.arange(24, 30) % 3)
    np.testing.assert_array_equal(inputs[:, 1:], rows[24:, :-1])
    mask = np.concatenate([b["mask"] for b in seen])
    np.testing.assert_array_equal(mask[:, 0], [1] * 6 + [0] * 2)
    assert not targets[6:].any()
    # An epoch has every row once; two hosts have the halves of a batch.
    epoch = np.concatenate([data.batch(i, (0, 1))["targets"] for i in range(6)])
    np.testing.assert_array_equal(np.sort(epoch, axis=0), np.sort(rows[:24], axis=0))
    halves = [data.batch(2, (i, 2)) for i in range(2)]
    for name, array in data.batch(2, (0, 1)).items():
        np.testing.assert_array_equal(np.concatenate([h[name] for h in halves]), array)
    plain = codes.make(batch_size=4, seed=0, path=str(path))
    assert plain.spec.facts["vocab_size"] == 6  # five codes and the beginning
    assert set(plain.batch(0, (0, 1))["inputs"][:, 0]) == {5}
    assert plain.fingerprint != data.fingerprint
    single = codes.make(batch_size=2, seed=0, path=str(path / "train.npy"), train_share=0.75)
    assert single.spec.facts["tokens"] == {"train": 72, "validation": 24}
    assert single.spec.facts["floors"]["uniform"] == pytest.approx(math.log(5))


def test_floors_by_hand(tmp_path: Path) -> None:
    np.save(tmp_path / "train.npy", np.array([[0, 1], [0, 1], [0, 1]]))
    np.save(tmp_path / "validation.npy", np.array([[0, 1]]))
    floors = codes.make(batch_size=1, seed=0, path=str(tmp_path)).spec.facts["floors"]
    assert floors["unigram"] == pytest.approx(math.log(2))
    # With one added to each count: 4 of 5.
    assert floors["place"] == pytest.approx(math.log(5 / 4))


def test_a_prior_learns_and_writes_rows_of_codes(tmp_path: Path) -> None:
    path, rows = folder(tmp_path)
    data = codes.make(batch_size=8, seed=0, path=str(path), labels=True)
    optimizer = optim.make(60, name="adam", schedule="constant", rules=((".*", {}),))
    network = {"name": "transformer", "layers": 1, "heads": 1, "width": 8, "init_std": 0.2}
    task = lm.make(data.spec, optimizer, network)
    numbers = optim.HYPER | lm.HYPER | {"lr": 0.05}
    state = jax.jit(task.init)(jax.random.key(0), {k: np.float32(v) for k, v in numbers.items()})
    step = jax.jit(task.step)
    for i in range(60):
        state, metrics = step(state, data.batch(i, (0, 1)))
    assert float(metrics["loss"][0] / metrics["loss"][1]) < 0.1
    assert float(metrics["bits_per_byte"][1]) == 0  # codes are no text: nothing to divide by
    begin = data.spec.facts["codes"] + np.arange(3)
    assert task.sample is not None
    written = task.sample(
        Weights(state.params, {}), jax.random.key(1), prompt=begin[:, None], count=4,
        temperature=0.0,
    )  # fmt: skip
    np.testing.assert_array_equal(written[:, 1:], rows[:3])


@pytest.mark.parametrize(
    ("array", "settings", "message"),
    [
        (None, {}, "there are no codes at"),
        (np.zeros((3, 2)), {}, "holds float64; expected whole numbers"),
        (np.zeros(3, int), {}, r"has the shape \(3,\); expected"),
        (np.array([[0, -1], [0, 0]]), {}, "has the code -1; expected 0"),
        (np.array([[0, 9], [0, 0]]), {"codes": 4}, "has the code 9; data.codes=4 allows 0 to 3"),
        (np.zeros((3, 2), int), {"labels": True}, "needs a folder with train_labels.npy"),
        (np.zeros((3, 2), int), {"train_share": 1.0}, "expected a number between 0 and 1"),
        (np.zeros((1, 2), int), {}, "at least one in each"),
    ],
)
def test_what_are_no_codes(
    tmp_path: Path, array: np.ndarray | None, settings: dict[str, Any], message: str
) -> None:
    if array is not None:
        np.save(tmp_path / "x.npy", array)
    with pytest.raises(UserError, match=message):
        codes.make(batch_size=2, seed=0, path=str(tmp_path / "x.npy"), **settings)
    (tmp_path / "y.npy").write_bytes(b"no array")
    with pytest.raises(UserError, match=r"is no \.npy file"):
        codes.make(batch_size=2, seed=0, path=str(tmp_path / "y.npy"))
