"""Token after token with a cache of keys and values, for a batch of unlike rows.

Two programs do all the work: `prefill` reads every row's window at once and draws a token a row,
`extend` draws up to CHUNK more. Prompts are padded on the left to a bucket of lengths, rows to a
bucket of batches and the cache to a bucket of sizes, so that few programs serve all requests.

When the context of a row is full, the newest half of it is read again and the row goes on. All
rows are read again at that moment, but only the full ones lose anything: a row's tokens do not
depend on the others.

Letters in names: B rows, P places of the longest window, S slots of the cache, K tokens of a call.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from aigc_jax.errors import UserError
from aigc_jax.generate.draw import Drawn, draw
from aigc_jax.generate.logits import Active, Knobs, Tally, active, count, knobs, tally
from aigc_jax.generate.request import Sampling

CHUNK = 64  # K: tokens that one call of `extend` can write
LEAST = 16  # the smallest bucket
WORTH_PREPARING = 16  # tokens a row; turning the kernels takes about as long as four


class Row(NamedTuple):
    """One text to write.

    Attributes:
      prompt: int [tokens], 1 to the model's context. most: tokens to write at most.
      sampling: what to draw from.
    """

    prompt: np.ndarray
    most: int
    sampling: Sampling


class Carry(NamedTuple):
    """What goes from one call to the next, on the device, and is given away to it."""

    cache: Any
    tally: Tally
    token_B: jax.Array  # the newest, not yet read by the model


class Chunk(NamedTuple):
    """What one call wrote. Of row b the first valid[b] tokens count.

    Attributes:
      tokens: int32 [B, K]. logprobs, raw: float32 [B, K], see `generate.draw.Drawn`.
      valid: int [B], 0 for rows that had ended before.
    """

    tokens: np.ndarray
    logprobs: np.ndarray
    raw: np.ndarray
    valid: np.ndarray


class Programs:
    """The two compiled programs of a network.

    Args:
      network: has `vocab_size` and `context`; `empty_cache(batch, size, start_B)` with `size`
        slots, of which row b's count from start_B[b] on; `prepared(params, batch)`, variables
        besides the parameters that make the reading of single tokens faster; called as
        `models.transformer.Transformer` is, with `cache` and `last`.
    """

    def __init__(self, network: Any) -> None:
        self.network = network
        self.prefill: Callable[..., tuple[Drawn, Carry]] = jax.jit(
            partial(_prefill, network), static_argnames=("size", "what"), donate_argnames="seen"
        )
        self.extend: Callable[..., tuple[Drawn, Carry]] = jax.jit(
            partial(_extend, network), static_argnames="what", donate_argnames="carry"
        )


def _prefill(
    network: Any, params: Any, tokens_BP: jax.Array, length_B: jax.Array, seen: Tally,
    by: Knobs, keys_B: jax.Array, index: jax.Array, *, size: int, what: Active,
) -> tuple[Drawn, Carry]:  # fmt: skip
    """Reads left-padded windows [B, P] of `length_B` tokens and draws one token a row."""
    batch, places = tokens_BP.shape
    cache = network.empty_cache(batch, size, places - length_B)
    logits, cache = network.apply({"params": params}, tokens_BP, cache=cache, last=True)
    drawn = draw(logits[:, -1], keys_B, index, by, seen, what)
    return drawn, Carry(cache, count(seen, drawn.token), drawn.token)


def _extend(
    network: Any, variables: Any, carry: Carry, ended_B: jax.Array, end: jax.Array,
    steps: jax.Array, by: Knobs, keys_B: jax.Array, index: jax.Array, *, what: Active,
) -> tuple[Drawn, Carry]:  # fmt: skip
    """Draws `steps` tokens a row, at most CHUNK; fewer if all rows have ended before."""
    batch = carry.token_B.shape[0]

    def step(state: Any) -> Any:
        i, carry, ended_B, out = state
        logits, cache = network.apply(
            variables, carry.token_B[:, None], cache=carry.cache, last=True
        )
        drawn = draw(logits[:, -1], keys_B, index + i, by, carry.tally, what)
        out = jax.tree.map(lambda all_BK, new_B: all_BK.at[:, i].set(new_B), out, drawn)
        carry = Carry(cache, count(carry.tally, drawn.token), drawn.token)
        return i + 1, carry, ended_B | (drawn.token == end), out

    def going(state: Any) -> jax.Array:
        i, _, ended_B, _ = state
        return (i < steps) & ~ended_B.all()

    zeros = jnp.zeros((batch, CHUNK), jnp.float32)
    out = Drawn(jnp.zeros((batch, CHUNK), jnp.int32), zeros, zeros)
    # A loop of unknown length rather than a scan: one program for every number of tokens.
    _, carry, _, out = jax.lax.while_loop(going, step, (jnp.int32(0), carry, ended_B, out))
    return out, carry


def bucket(length: int, context: int) -> int:
    """Returns P for windows of up to `length` tokens: a power of two, at most the context."""
    return min(context, max(LEAST, 1 << (length - 1).bit_length()))


def slots(places: int, more: int, context: int) -> int:
    """Returns S: room for P places and `more` tokens after them, no more than can be used.

    The same for all lengths that share a bucket, else each would be a program of its own.
    """
    shortest = 1 if places <= LEAST else (1 << (places - 1).bit_length() - 1) + 1
    needed = places + min(more, context - shortest)
    sizes = [1 << i for i in range(4, context.bit_length()) if 1 << i < context]
    return next(s for s in (*sizes, context, context + context // 2, 2 * context) if s >= needed)


class Decoding:
    """A batch of rows on its way.

        decoding = Decoding(programs, params, rows, keys)
        while decoding.live.any():
            chunk = decoding.advance(16)

    Setting `live[b] = False` ends row b at once. Rows end by themselves with the end token and
    with their number of tokens.

    Args:
      programs: of the network. params: its parameters.
      rows: what to write, at least one. keys: random keys [B], one a row.
      end: the id that ends a row, or None.
      what: what the programs can do; by default what `rows` ask for.

    Raises:
      UserError: a prompt is empty or longer than the context; from `advance`, logits that are no
        numbers.
    """

    def __init__(
        self,
        programs: Programs,
        params: Any,
        rows: Sequence[Row],
        keys: jax.Array,
        *,
        end: int | None = None,
        what: Active | None = None,
    ) -> None:
        context, vocab_size = programs.network.context, programs.network.vocab_size
        for row in rows:
            if not 1 <= len(row.prompt) <= context:
                raise UserError(
                    f"The prompt has {len(row.prompt)} tokens; expected 1 to {context}, the"
                    " model's context."
                )
        self._programs, self._context = programs, context
        self._end = np.int32(-1 if end is None else end)
        asked = [row.sampling for row in rows]
        self._what = what or active(asked)
        spare = (1 << (len(rows) - 1).bit_length()) - len(rows)
        padded = [*rows, *[rows[0]._replace(prompt=rows[0].prompt[:1], most=0)] * spare]
        self._texts = [np.asarray(row.prompt, np.int32) for row in padded]
        self._begin = np.zeros(len(padded), int)  # where each row's window begins in its text
        self._most = np.array([row.most for row in padded])
        self._variables = {"params": params}
        if self._most.max() >= WORTH_PREPARING:
            self._variables |= programs.network.prepared(params, len(padded))
        self._by = knobs([row.sampling for row in padded], vocab_size)
        self._keys = keys[np.arange(len(padded)) % len(rows)] if spare else keys
        self._tally = tally(self._texts, vocab_size, self._what)
        self._carry: Carry | None = None
        self._read = np.zeros(len(padded), int)  # how much of its window the model has read
        self._left = 0  # slots
        self._written = 0
        self._size = len(rows)
        self.live = self._most > 0

    def advance(self, most: int) -> Chunk:
        """Writes 1 to `most` tokens in each live row, at least one of which there must be."""
        room = min(self._left, self._context - int(self._read[self.live].max()))
        if self._carry is None or room < 1:
            steps = 1
            drawn, self._carry = self._prefill()
            drawn = jax.tree.map(lambda x: x[:, None], jax.device_get(drawn))
        else:
            left = int(self._most[self.live].max()) - self._written
            steps = max(1, min(most, CHUNK, room, left))
            drawn, self._carry = self._programs.extend(
                self._variables, self._carry, ~self.live, self._end, np.int32(steps),
                self._by, self._keys, np.int32(self._written), what=self._what,
            )  # fmt: skip
            self._read += steps
            self._left -= steps
            drawn = jax.tree.map(lambda x: x[:, :steps], jax.device_get(drawn))
        return self._take(drawn, steps)

    def _prefill(self) -> tuple[Drawn, Carry]:
        """Reads all windows; those that are full begin anew with their newest half."""
        lengths = np.array([len(text) for text in self._texts])
        full = lengths - self._begin > self._context
        self._begin = np.where(full, lengths - max(1, self._context // 2), self._begin)
        # Nothing comes of rows that have ended: they must not make the windows longer.
        self._begin = np.where(self.live, self._begin, lengths - 1)
        self._read = lengths - self._begin
        places = bucket(int(self._read.max()), self._context)
        tokens_BP = np.zeros((len(self._texts), places), np.int32)
        for row, text, read in zip(tokens_BP, self._texts, self._read, strict=True):
            row[places - read :] = text[len(text) - read :]
        # As for rows that begin now, however far these are: one size, so one program.
        size = slots(places, int(self._most.max()) - 1, self._context)
        self._left = size - places
        seen = self._tally if self._carry is None else self._carry.tally
        self._carry = None  # frees the old cache before there is a new one
        return self._programs.prefill(
            self._variables["params"], tokens_BP, self._read.astype(np.int32), seen, self._by,
            self._keys, np.int32(self._written), size=size, what=self._what,
        )  # fmt: skip

    def _take(self, drawn: Drawn, steps: int) -> Chunk:
        """Adds what was drawn to the texts and ends the rows that have all they want."""
        tokens, logprobs, raw = (np.asarray(x) for x in drawn)
        is_end = tokens == self._end
        upto = np.where(is_end.any(1), is_end.argmax(1) + 1, steps)
        valid = np.where(self.live, np.minimum(upto, self._most - self._written), 0)
        used = np.arange(steps) < valid[:, None]
        if np.isnan(raw[used]).any():
            raise UserError(
                "The model's logits are not finite numbers; this checkpoint can't write text."
                " Choose an earlier step."
            )
        self._texts = [
            np.concatenate([text, new[:n]])
            for text, new, n in zip(self._texts, tokens, valid, strict=True)
        ]
        self._written += steps
        ended = (is_end & used).any(1) | (self._written >= self._most)
        self.live = self.live & ~ended
        size = self._size
        return Chunk(tokens[:size], logprobs[:size], raw[:size], valid[:size])
