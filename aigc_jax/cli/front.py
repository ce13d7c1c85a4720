"""What every command shares: a parser whose complaints are one line, and `--config.a.b=v`.

A command that takes a recipe is written like this, in `aigc_jax/cli/NAME.py`:

    def add(subparsers):                       # light: it runs for every typo
        parser = subparsers.add_parser("train", help="trains a model")
        front.add_config_arguments(parser)     # CONFIG and --config.SECTION.NAME=VALUE
        parser.set_defaults(run=run)

    def run(args) -> int:                      # returns the exit code
        cfg = config.load(args.config, args.overrides)
        from aigc_jax.train import loop        # only now: this imports jax

`main` takes the `--config.` words out before argparse sees the others (argparse would take the
value of `--config.run.steps 5` for the recipe), so `args.overrides` is ready for `config.load`.
"""

import argparse
import re
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from aigc_jax.errors import UserError, nearest

PREFIX = "--config."
_SECTIONS = "config|task|optim|hyper|data|evals|run|mesh|init_from"
# A setting without its dashes: `run.steps=5`, `config.run.steps=5`, `-config.run.steps=5`.
_BARE_SETTING = re.compile(rf"-?(?:{_SECTIONS})\.[^\s=]+=\S*")

_CHOICE = re.compile(r"invalid choice: '(.*?)' \(choose from (.*)\)")


class Parser(argparse.ArgumentParser):
    """An argument parser without abbreviations; a mistake is a UserError, not an exit."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)

    def error(self, message: str) -> NoReturn:
        """Raises the complaint as one line that says where the usage is."""
        choice = _CHOICE.search(message)
        hint = nearest(choice[1], re.findall(r"[\w-]+", choice[2])) if choice else ""
        end = f".{hint}" if hint else f"; see `{self.prog} --help`"
        raise UserError(" ".join(message.split()) + end)


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the recipe, as `args.config`, and lets the command take `args.overrides`."""
    parser.add_argument(
        "config",
        metavar="CONFIG",
        help="a recipe, path/to/recipe.py[:ARG]; any of its settings can be changed with"
        " --config.SECTION.NAME=VALUE",
    )
    parser.set_defaults(overrides=[])


def take_overrides(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Splits a command line into (everything else, the settings as "--config.a.b=v").

    A value may follow as a word of its own. Raises UserError for `--config=FILE`.
    """
    rest: list[str] = []
    overrides: list[str] = []
    words = iter(argv)
    for word in words:
        if word == "--":
            rest += [word, *words]
        elif word == "--config" or word.startswith("--config="):
            raise UserError(
                f"{word}: the recipe has no flag; write it plainly, as in `aigc train"
                " configs/lm/shakespeare_char.py`, and settings as --config.SECTION.NAME=VALUE"
            )
        elif word.startswith(PREFIX) and "=" not in word:
            value = next(words, None)
            if value is None or (value.startswith("-") and not _is_number(value)):
                raise UserError(
                    f"{word} has no value; write {word}=VALUE (=true or =false for a switch)"
                )
            overrides.append(f"{word}={value}")
        elif word.startswith(PREFIX):
            overrides.append(word)
        else:
            rest.append(word)
    return rest, overrides


def refuse_bare_settings(words: Sequence[str]) -> None:
    """Raises UserError for a setting without its two dashes, which would go unread."""
    for word in words:
        if _BARE_SETTING.fullmatch(word):
            right = word.lstrip("-").removeprefix("config.")
            raise UserError(f"{word} is a setting without its dashes; write {PREFIX}{right}")


def refuse_leftovers(parser: argparse.ArgumentParser, leftovers: Sequence[str]) -> None:
    """Raises UserError for words that no command takes, with the nearest flag that exists."""
    if not leftovers:
        return
    # The flag is what was misspelt; a bare word beside it is its value.
    word = next((word for word in leftovers if word.startswith("-")), leftovers[0])
    flag = word.partition("=")[0]
    flags = [*_flags(parser)]
    if flag in flags:
        raise UserError(f"{word} stands too early; write it after the command")
    hint = nearest(flag, flags) if flag.startswith("-") else ""
    raise UserError(f"{word} is not understood.{hint or f' See `{parser.prog} --help`'}")


def _flags(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from _flags(inner)


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
