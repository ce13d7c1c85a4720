"""`aigc COMMAND ...`: finds the command, hands it its arguments, and says in one line what failed.

Each file of this folder that defines `add` is a command, named as the file is. Only the one that
was typed is imported.
"""

import contextlib
import errno
import importlib
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from aigc_jax import __version__
from aigc_jax.cli import front
from aigc_jax.errors import StorageError, UserError, nearest

FOLDER = Path(__file__).resolve().parent
INTERRUPTED = 130
# As a shell says it of a program that wrote into a closed pipe.
PIPE_CLOSED = 141
_STORAGE = (errno.ENOSPC, errno.EROFS, errno.EDQUOT)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code.

    0 done; 2 a mistake of the user's, in one line on stderr; 4 the disk is full or read-only; 130
    interrupted; the rest is the command's own (see `aigc COMMAND --help`). A bug is a traceback.
    """
    try:
        code = _run(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
        return code
    except UserError as error:
        return _say(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _say("interrupted", INTERRUPTED)
    except BrokenPipeError:
        # The reader has gone (`aigc status RUN | head`). Python would flush stdout once more at
        # exit and complain, so it gets another place to go.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except OSError as error:
        if error.errno not in _STORAGE:
            raise
        where = f" at {error.filename}" if error.filename else ""
        return _say(
            f"{error.strerror}{where}; nothing saved so far is lost", StorageError.exit_code
        )


def commands() -> list[str]:
    """The commands there are, sorted: "check-resume" for check_resume.py."""
    return [
        path.stem.replace("_", "-")
        for path in sorted(FOLDER.glob("*.py"))
        if re.search(r"^def add\(", path.read_text(encoding="utf-8"), re.MULTILINE)
    ]


def _run(argv: list[str]) -> int:
    words, overrides = front.take_overrides(argv)
    known = commands()
    chosen = next((word for word in words if not word.startswith("-")), None)
    if chosen is not None and chosen not in known:
        raise UserError(
            f"there is no command '{chosen}'.{nearest(chosen, known)} There are: {', '.join(known)}"
        )
    parser = front.Parser(prog="aigc", description="Trains and studies generative models.")
    parser.add_argument("--version", action="version", version=f"aigc {__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND", title="commands")
    # Without a command the help lists them all, so each has to add itself.
    for name in [chosen] if chosen else known:
        importlib.import_module(f"aigc_jax.cli.{name.replace('-', '_')}").add(subparsers)
    if not argv:
        parser.print_help()
        return 0
    takes_settings = chosen and subparsers.choices[chosen].get_default("overrides") is not None
    if takes_settings:
        front.refuse_bare_settings(words)
    elif overrides:
        command = f"aigc {chosen}" if chosen else "aigc"
        raise UserError(f"{overrides[0]}: `{command}` takes no settings of a config")
    try:
        args, leftovers = parser.parse_known_args(words)
    except SystemExit as done:  # how argparse ends after --help and --version
        return int(done.code or 0)
    front.refuse_leftovers(parser, leftovers)
    if not hasattr(args, "run"):
        parser.error("a command is missing")
    if takes_settings:
        args.overrides = overrides
    return int(args.run(args))


def _say(message: str, code: int) -> int:
    print(f"aigc: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
