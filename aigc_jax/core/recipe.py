"""Runs a recipe, a Python file of the user's with `get_config(arg=None)`, and says what it gave.

Whatever goes wrong inside that file is reported as the user's own, in one line with its place.
"""

import contextlib
import difflib
import importlib
import inspect
import os
import sys
import traceback
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict, FrozenConfigDict

from aigc_jax.errors import UserError


def read(spec: str) -> tuple[dict[str, Any], str]:
    """Returns what the recipe's `get_config` gives, as a plain dict, and the file's short name.

    Args:
      spec: "path/to/recipe.py", or "path/to/recipe.py:ARG" for `get_config("ARG")`.

    Raises:
      UserError: no such file (with the nearest one), no `get_config`, an argument it doesn't take
        or lacks, a result that is no ConfigDict, or any exception inside the recipe.
    """
    with opened(spec) as (module, arg, label):
        get_config = getattr(module, "get_config", None)
        if not callable(get_config):
            raise _Complaint(f"{label} is no recipe: it defines no get_config(arg=None)")
        _check_arguments(get_config, arg, label)
        made = get_config() if arg is None else get_config(arg)
        if not isinstance(made, ConfigDict | FrozenConfigDict):
            raise _Complaint(
                f"{label}: get_config returns {type(made).__name__}; expected an"
                " ml_collections.ConfigDict"
            )
        return made.to_dict(), label


def read_sweep(spec: str, algebra: Any) -> Any:
    """Returns what the recipe's `get_sweep(h)` gives, None where it defines none.

    Args:
      spec: as of `read`; its ARG goes to a `get_sweep(h, arg)`.
      algebra: what the recipe makes a search space with, `h`.

    Raises:
      UserError: no such file, or any exception inside the recipe.
    """
    with opened(spec) as (module, arg, label):
        get_sweep = getattr(module, "get_sweep", None)
        if get_sweep is None:
            return None
        if not callable(get_sweep):
            raise _Complaint(f"{label}: get_sweep is {get_sweep!r}; expected get_sweep(h)")
        takes = inspect.signature(get_sweep)
        for arguments in ([algebra], [algebra, arg]):
            with contextlib.suppress(TypeError):
                takes.bind(*arguments)
                break
        else:
            raise _Complaint(f"{label}: expected get_sweep(h) or get_sweep(h, arg)")
        return get_sweep(*arguments)


@contextlib.contextmanager
def opened(spec: str) -> Iterator[tuple[types.ModuleType, str | None, str]]:
    """Runs a recipe's or a study's file, for as long as the block lasts.

    Gives the module, the argument after the colon (None without one) and the file's short name.

    Raises:
      UserError: no such file; or, with file and line, any exception inside it or the block.
    """
    name, arg = _split(spec)
    path = _existing(name)
    with _importable(path), _blamed_on(path):
        module = types.ModuleType("aigc_jax_recipe")
        module.__file__ = str(path)
        # Compiled here and not imported: an import would take a stale .pyc for a file that was
        # edited twice within a second.
        exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)
        yield module, arg, _short(path)


class _Complaint(UserError):
    """Ours, said about the recipe: not to be taken for an exception of the recipe's."""


def _split(spec: str) -> tuple[str, str | None]:
    head, mark, arg = spec.rpartition(".py:")
    return (f"{head}.py", arg) if mark else (spec, None)


def _existing(name: str) -> Path:
    path = Path(name)
    if path.suffix == ".py" and path.is_file():
        return path.resolve()
    what = "is a folder" if path.is_dir() else "is no recipe" if path.exists() else "isn't there"
    folder = path if path.is_dir() else Path("configs")
    known = [file for file in sorted(folder.rglob("*.py")) if file.name != "__init__.py"]
    # A recipe can be meant by its path, by its file's name or without the .py.
    meant = {
        alias: str(file)
        for file in known
        for alias in (file.stem, file.name, str(file.with_suffix("")), str(file))
    }
    for word in (name, path.name):
        for close in difflib.get_close_matches(word, meant, n=1, cutoff=0.6):
            raise UserError(f"config '{name}' {what}. Did you mean '{meant[close]}'?")
    listed = f"; there are: {', '.join(map(str, known[:12]))}" if known else ""
    raise UserError(f"config '{name}' {what}; expected a Python file with get_config{listed}")


def _short(path: Path) -> str:
    with contextlib.suppress(ValueError):
        return str(path.relative_to(Path.cwd()))
    return str(path)


def _home(path: Path) -> Path:
    """The folder of all recipes: the `configs/` that `path` stands under, or its own folder."""
    for parent in path.parents:
        if parent.name == "configs":
            return parent
    return path.parent


def _is_recipe(file: str | None, home: Path) -> bool:
    # On text: every module of the process is looked at, for every recipe that is read.
    if file is None:
        return False
    if home.name == "configs":
        return file.startswith(f"{home}{os.sep}")
    return os.path.dirname(file) == str(home)


@contextlib.contextmanager
def _importable(path: Path) -> Iterator[None]:
    """Lets recipes import each other, and forgets them afterwards.

    Forgetting matters where two are loaded in one process: `configs.base` of one project is not
    that of another, nor that of a minute ago.
    """
    home = _home(path)
    folder = home.parent if home.name == "configs" else home

    def forget() -> dict[str, types.ModuleType]:
        ours = [
            name
            for name, module in sys.modules.items()
            if name.split(".")[0] == "configs"
            or _is_recipe(getattr(module, "__file__", None), home)
        ]
        return {name: sys.modules.pop(name) for name in ours}

    before = forget()
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        forget()
        sys.modules.update(before)


@contextlib.contextmanager
def _blamed_on(path: Path) -> Iterator[None]:
    """Turns any exception inside the recipe into one line with the file and line it came from."""
    try:
        yield
    except _Complaint:
        raise
    except SyntaxError as error:
        file = _short(Path(error.filename)) if error.filename else _short(path)
        message = f"{type(error).__name__}: {error.msg}"
        # A file that is no text at all fails on no line.
        place = f"{file}:{error.lineno}" if error.lineno else file
        raise UserError(f"{place}: {message} (in your config)") from error
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        # The innermost frame that is a recipe: the mistake may be in one that this one imports.
        own = [frame for frame in frames if _is_recipe(frame.filename, _home(path))]
        place = f"{_short(Path(own[-1].filename))}:{own[-1].lineno}" if own else _short(path)
        # Said by us, of what the recipe asked for, unless the recipe raises it itself.
        if isinstance(error, UserError) and not _is_recipe(frames[-1].filename, _home(path)):
            raise UserError(f"{place}: {error}") from error
        message = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(":")
        raise UserError(f"{place}: {message} (in your config)") from error


def _check_arguments(get_config: Any, arg: str | None, label: str) -> None:
    try:
        inspect.signature(get_config).bind(*([] if arg is None else [arg]))
    except TypeError:
        if arg is None:
            raise _Complaint(
                f"{label}: its get_config needs an argument: write {label}:ARG"
            ) from None
        raise _Complaint(
            f"{label} takes no argument, and '{arg}' was given after the colon"
        ) from None
