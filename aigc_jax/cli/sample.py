"""`aigc sample RUN`: text from a trained language model."""

import argparse
import contextlib
import json
import sys
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

from aigc_jax import load
from aigc_jax.errors import UserError
from aigc_jax.generate.request import Completion, Request, request

BETWEEN = "---\n"  # two texts


def add(subparsers: Any) -> None:
    """Adds the command."""
    parser = subparsers.add_parser("sample", help="write text with a run's newest checkpoint")
    parser.add_argument("run_folder", metavar="RUN", type=Path)
    parser.add_argument("--prompt", action="append", metavar="TEXT",
                        help="where a text begins; may be repeated (default: newline)")  # fmt: skip
    parser.add_argument("--prompts", type=Path, metavar="FILE",
                        help="a prompt a line; or .jsonl: a line {\"prompt\": ...} with settings of"
                        " its own, named as the flags are, with _ for -")  # fmt: skip

    def knob(flag: str, kind: Any, metavar: str, words: str) -> None:
        # Without a default here: the request has it, and a flag not typed leaves it alone.
        name = flag.removeprefix("--").replace("-", "_")
        parser.add_argument(flag, type=kind, metavar=metavar, default=argparse.SUPPRESS,
                            help=f"{words} (default: {getattr(Request, name)})")  # fmt: skip

    knob("--n", int, "N", "how many texts for each prompt")
    knob("--max-tokens", int, "N", "tokens to write at most")
    knob("--temperature", float, "T", "0 is greedy")
    knob("--top-k", int, "K", "only the K likeliest tokens; 0 for all")
    knob("--top-p", float, "P", "only the fewest tokens that have this probability, in (0, 1]")
    knob("--min-p", float, "P", "only tokens with this share of the likeliest one's probability")
    knob("--repetition-penalty", float, "R", "over prompt and text; 1 is none")
    knob("--presence-penalty", float, "A", "over the text; 0 is none")
    knob("--frequency-penalty", float, "A", "over the text; 0 is none")
    knob("--seed", int, "S", "the texts follow from it")
    parser.add_argument("--logit-bias", action="append", metavar="ID=VALUE", default=[],
                        help="added to a token's logit; may be repeated")  # fmt: skip
    parser.add_argument("--stop", action="append", metavar="TEXT", default=argparse.SUPPRESS,
                        help="end a text before this; may be repeated")  # fmt: skip
    parser.add_argument("--batch-size", type=int, default=32, metavar="N",
                        help="the most texts at once (default: 32)")  # fmt: skip
    parser.add_argument("--step", type=int, help="the checkpoint (default: the newest)")
    parser.add_argument("--format", choices=("text", "jsonl"), default="text")
    parser.add_argument("--logprobs", action="store_true",
                        help="with --format=jsonl, tokens and their log-probabilities")  # fmt: skip
    parser.add_argument("--output", type=Path, metavar="FILE", help="instead of the terminal")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Samples."""
    if args.logprobs and args.format != "jsonl":
        raise UserError("--logprobs needs --format=jsonl.")
    if args.batch_size < 1:
        raise UserError(f"--batch-size={args.batch_size}: expected 1 or more.")
    asked = _requests(args)
    model = load(args.run_folder, args.step)
    # Both check all prompts at once, so a file that exists is not emptied for a mistake.
    pieces: Iterable[str]
    if args.format == "text" and len(asked) == 1 and asked[0].n == 1:
        pieces = chain([asked[0].prompt], model.stream(asked[0]), ["\n"])
    else:
        pieces = _shown(model.each(asked, batch_size=args.batch_size), args)
    with _output(args.output) as out:
        for piece in pieces:
            out.write(piece)
            out.flush()
    return 0


def _shown(texts: Iterable[Completion], args: argparse.Namespace) -> Iterator[str]:
    """Yields each text as it is printed."""
    for i, done in enumerate(texts):
        if args.format == "jsonl":
            yield _line(done, args.logprobs)
        else:
            yield f"{BETWEEN if i else ''}{done.prompt}{done.text}\n"


def _requests(args: argparse.Namespace) -> list[Request]:
    """The requests of the command line, checked before JAX is loaded."""
    knobs = {name: value for name, value in vars(args).items() if name in _KNOBS}
    if args.logit_bias:
        knobs["logit_bias"] = dict(_bias(word) for word in args.logit_bias)
    prompts: list[dict[str, Any]] = [{"prompt": text} for text in args.prompt or ()]
    if args.prompts:
        return [
            *(request(knobs | own) for own in prompts),
            *(_placed(where, knobs | own) for where, own in _file(args.prompts)),
        ]
    return [request(knobs | own) for own in prompts or [{"prompt": "\n"}]]


_KNOBS = ("n", "max_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty",
          "presence_penalty", "frequency_penalty", "seed", "stop")  # fmt: skip


def _placed(where: str, knobs: dict[str, Any]) -> Request:
    try:
        return request(knobs)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _file(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields each line's place and what it asks for."""
    try:
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The prompts can't be read from {path}: {error}.") from None
    for number, line in enumerate(lines, 1):
        where = f"{path}, line {number}"
        if path.suffix != ".jsonl":
            yield where, {"prompt": line.removesuffix("\r")}
            continue
        try:
            own = json.loads(line)
        except ValueError as error:
            raise UserError(f"{where}: no JSON: {error}.") from None
        if not isinstance(own, dict):
            raise UserError(f'{where}: expected an object, {{"prompt": "..."}}.')
        yield where, own


def _bias(word: str) -> tuple[int, float]:
    token, mark, value = word.partition("=")
    try:
        if not mark:
            raise ValueError
        return int(token), float(value)
    except ValueError:
        raise UserError(f"--logit-bias={word}: expected ID=VALUE, such as 12=-1.5.") from None


@contextlib.contextmanager
def _output(path: Path | None) -> Iterator[TextIO]:
    if path is None:
        yield sys.stdout
        return
    try:
        file = path.open("w", encoding="utf-8")
    except OSError as error:
        raise UserError(f"--output={path} can't be written: {error.strerror}.") from None
    with file:
        yield file


def _line(done: Completion, logprobs: bool) -> str:
    """One line of JSON."""
    shown: dict[str, Any] = {
        "prompt": done.prompt,
        "index": done.index,
        "seed": done.seed,
        "text": done.text,
        "finish_reason": done.finish_reason,
    }
    if logprobs:
        shown["tokens"] = done.tokens
        shown["logprobs"] = done.logprobs
        shown["raw_logprobs"] = done.raw_logprobs
    return json.dumps(shown, ensure_ascii=False) + "\n"
