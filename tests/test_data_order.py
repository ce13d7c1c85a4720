"""The order of examples, and rows cut out of a stream of ids."""

from itertools import pairwise

import numpy as np
import pytest

from aigc_jax.data import order
from aigc_jax.data.base import Shard, rows_of
from aigc_jax.data.windows import RandomCrops, ShuffledWindows, Stream, cover
from aigc_jax.errors import UserError

ALL: Shard = (0, 1)


def stream(length: int, starts: tuple[int, ...] | None = None, joined: bool = False) -> Stream:
    """Ids 1, 2, ...: each tells its place, and 0 is left for padding."""
    marks = None
    if starts is not None:
        marks = np.zeros(length, np.uint8)
        marks[list(starts)] = 1
    return Stream(np.arange(1, length + 1, dtype=np.uint16), marks, joined)


def test_raw_bits_are_the_same_on_every_numpy() -> None:
    # Philox4x64-10 of key (7, 1), counter (0, 5, 0, 0); worked out by the plain program below.
    assert order.raw_bits(7, 1, 5, 6).tolist() == philox(key=(7, 1), block=5, count=6)
    assert order.raw_bits(-1, 2, 0, 3).tolist() == philox(key=(2**64 - 1, 2), block=0, count=3)


def philox(key: tuple[int, int], block: int, count: int) -> list[int]:
    """Philox4x64-10 by the paper (Salmon et al. 2011); NumPy counts up before each block."""
    word = 2**64 - 1
    numbers: list[int] = []
    counter = block << 64
    while len(numbers) < count:
        counter += 1
        x = [(counter >> (64 * i)) & word for i in range(4)]
        k0, k1 = key
        for _ in range(10):
            a, b = 0xD2E7470EE14C6C93 * x[0], 0xCA5A826395121157 * x[2]
            x = [(b >> 64) ^ x[1] ^ k0, b & word, (a >> 64) ^ x[3] ^ k1, a & word]
            k0, k1 = (k0 + 0x9E3779B97F4A7C15) & word, (k1 + 0xBB67AE8584CAA73B) & word
        numbers += x
    return numbers[:count]


def test_purposes_steps_and_seeds_have_streams_of_their_own() -> None:
    rows = [order.raw_bits(s, p, b, 4).tolist() for s in (0, 1) for p in (1, 2) for b in (0, 1)]
    assert len({value for row in rows for value in row}) == 32


@pytest.mark.parametrize("pipeline", [RandomCrops, ShuffledWindows])
def test_hosts_together_give_the_global_batch(pipeline: type) -> None:
    batch = pipeline(stream(500), 8, 12, 3)
    for step in (0, 1, 77):
        whole = batch(step, ALL)
        assert whole["inputs"].shape == (12, 8)
        for hosts in (2, 4):
            parts = [batch(step, (host, hosts)) for host in range(hosts)]
            for name, array in whole.items():
                np.testing.assert_array_equal(np.concatenate([p[name] for p in parts]), array)
    with pytest.raises(UserError, match="12 can't be divided among 5 hosts; take 10 or 15"):
        batch(0, (0, 5))


def test_shares_of_a_batch() -> None:
    assert rows_of((1, 4), 8) == slice(2, 4)
    with pytest.raises(ValueError, match="shard 4 of 4"):
        rows_of((4, 4), 8)


def test_random_crops_reach_every_place_of_the_stream() -> None:
    batch = RandomCrops(stream(12), 4, 64, 0)(0, ALL)
    assert set(batch["inputs"][:, 0].tolist()) == set(range(1, 9))  # nanoGPT's N - T places
    np.testing.assert_array_equal(batch["targets"], batch["inputs"] + 1)
    assert batch["inputs"].dtype == batch["targets"].dtype == np.int32
    assert batch["mask"].dtype == np.float32
    assert batch["mask"].all()


def test_batches_follow_from_seed_and_step_alone() -> None:
    for pipeline in (RandomCrops, ShuffledWindows):
        one, two = pipeline(stream(999), 8, 6, 1), pipeline(stream(999), 8, 6, 1)
        late = [one(step, ALL)["inputs"] for step in (9, 0, 200)]
        for step, seen in zip((200, 0, 9), reversed(late), strict=True):
            np.testing.assert_array_equal(two(step, ALL)["inputs"], seen)
        other = pipeline(stream(999), 8, 6, 2)
        assert not np.array_equal(other(9, ALL)["inputs"], late[0])
        assert not np.array_equal(late[0], late[1])


def test_an_epoch_has_every_window_once_in_a_new_order() -> None:
    batch = ShuffledWindows(stream(8 * 15 + 1), 8, 4, 5)  # 15 windows: epochs end inside batches
    firsts = np.concatenate([batch(step, ALL)["inputs"][:, 0] for step in range(30)])
    epochs = firsts.reshape(8, 15)
    for epoch in epochs:
        assert sorted(epoch.tolist()) == list(range(1, 121, 8))
    assert len({tuple(e) for e in epochs.tolist()}) == 8


@pytest.mark.parametrize("length", [2, 8, 9, 10, 33, 34, 80])
@pytest.mark.parametrize("hosts", [1, 2])
def test_a_split_predicts_every_token_but_the_first_once(length: int, hosts: int) -> None:
    split = cover(stream(length), 8, 2)
    inputs, targets = [], []
    for index in range(split.batches):
        for host in range(hosts):
            batch = split.batch(index, (host, hosts))
            assert batch["inputs"].shape == (2 // hosts, 8)
            seen = batch["mask"] == 1
            assert not batch["targets"][~seen].any()
            assert not batch["inputs"][~seen].any()
            inputs += batch["inputs"][seen].tolist()
            targets += batch["targets"][seen].tolist()
    assert inputs == list(range(1, length))
    assert targets == list(range(2, length + 1))
    assert split.batch(split.batches - 1, ALL)["mask"].any()  # no batch of padding alone
    for wrong in (-1, split.batches):
        with pytest.raises(IndexError):
            split.batch(wrong, ALL)


@pytest.mark.parametrize("joined", [False, True])
def test_documents_in_a_row_are_told_apart(joined: bool) -> None:
    starts = (0, 3, 4, 11, 20)
    length, context = 26, 6
    split = cover(stream(length, starts, joined), context, 3)
    predicted = []
    for index in range(split.batches):
        batch = split.batch(index, ALL)
        assert {batch[n].dtype.name for n in ("segments", "positions")} == {"int32"}
        for row in range(3):
            segment, position = 0, 0
            for t in range(context):
                at = (index * 3 + row) * context + t  # the place of this input in the stream
                if at + 1 >= length:
                    assert batch["segments"][row, t] == batch["positions"][row, t] == 0
                    assert batch["mask"][row, t] == 0
                    continue
                new = t == 0 or at in starts
                segment, position = segment + new, 0 if new else position + 1
                assert batch["segments"][row, t] == segment
                assert batch["positions"][row, t] == position
                border = at + 1 in starts
                assert batch["mask"][row, t] == (1.0 if joined or not border else 0.0)
                predicted += [at + 1] * int(batch["mask"][row, t])
    expected = [at for at in range(1, length) if joined or at not in starts]
    assert predicted == expected


def test_crops_carry_the_same_marks_as_the_stream() -> None:
    starts = (0, 5, 13, 14, 30)
    marks = stream(40, starts)
    batch = RandomCrops(marks, 10, 32, 1)(3, ALL)
    for row in range(32):
        first = int(batch["inputs"][row, 0]) - 1
        borders = [t for t in range(1, 10) if first + t in starts]
        segments = batch["segments"][row].tolist()
        assert [t for t, (a, b) in enumerate(pairwise(segments), 1) if b == a + 1] == borders
        assert (batch["positions"][row] == 0).nonzero()[0].tolist() == [0, *borders]
        masked = [t for t in range(10) if first + t + 1 in starts]
        assert (batch["mask"][row] == 0).nonzero()[0].tolist() == masked
