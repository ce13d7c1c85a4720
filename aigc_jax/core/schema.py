"""The signature of `make` is the schema: its parameters, read from the source without importing it.

A parameter (or, for `make = SomeClass`, an annotated field) with a default is a knob that a recipe
or the command line may set; one without is handed in by the wiring. Only `ast` is used: `import
jax` takes seconds, and a misspelt setting should be answered before that.
"""

import ast
import importlib.util
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from aigc_jax.core import values
from aigc_jax.errors import UserError, nearest

PACKAGE = "aigc_jax"
ROOT = Path(__file__).resolve().parent.parent

# Base classes that bring no settings of their own.
_BARE_BASES = {"Module", "NamedTuple", "PyTreeNode", "Protocol", "ABC", "object"}


class Knob(NamedTuple):
    """One parameter of a `make`.

    `default` is None where `required`; `annotation` is the text of its type ("int | None").
    """

    default: Any
    annotation: str
    required: bool


def names(room: str) -> list[str]:
    """The modules of a room that define `make`, sorted: what a config may name there."""
    files = sorted((ROOT / room).glob("*.py"))
    return [path.stem for path in files if _definition(_parse(path), "make") is not None]


def knobs(room: str, name: str, entry: str = "make") -> dict[str, Knob]:
    """Returns the parameters of `entry` in aigc_jax/ROOM/NAME.py, in the order of the signature.

    A name with a dot ("mylab.models.gpt") is a module of the user's own, found on the Python path.

    Raises:
      UserError: no such module (the message has the right names and the nearest), or the user's own
        module isn't readable as a schema.
      ValueError: a module of ours breaks the rules, with file and line: a default that is no
        literal, a missing or unknown annotation, `*args`.
    """
    path = find(room, name)
    try:
        tree = _parse(path)
        definition = _definition(tree, entry)
        if definition is None and entry == "make" and "." not in name:
            raise _unknown(room, name)
        if definition is None:
            raise ValueError(f"{path} defines no '{entry}'")
        if isinstance(definition, ast.ClassDef):
            return _fields(definition, tree, path)
        return _parameters(definition, path)
    except (ValueError, SyntaxError) as error:
        if "." in name and not isinstance(error, UserError):
            raise UserError(f"'{name}' can't be used as a module of {room}: {error}") from error
        raise


def required(room: str, name: str) -> list[str]:
    """The parameters of `make` that the wiring hands in."""
    return [key for key, knob in knobs(room, name).items() if knob.required]


def hyper(room: str, name: str) -> dict[str, float]:
    """Returns the module's `HYPER`, the numbers that its compiled step reads; {} without one."""
    return dict(_numbers(find(room, name), "HYPER", "dict[str, float]"))


def hyper_of(room: str, name: str) -> dict[str, dict[str, float]]:
    """Returns the module's `HYPER_OF`: more such numbers, by what they are read for."""
    return dict(_numbers(find(room, name), "HYPER_OF", "dict[str, dict[str, float]]"))


def _numbers(path: Path, variable: str, annotation: str) -> Any:
    for node in _parse(path).body:
        target: ast.expr | None = node.target if isinstance(node, ast.AnnAssign) else None
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target = node.targets[0]
        if isinstance(target, ast.Name) and target.id == variable:
            assert isinstance(node, ast.Assign | ast.AnnAssign)
            found = _literal(node.value, variable, path) if node.value is not None else None
            try:
                return values.coerce(annotation, found)
            except values.Unfit:
                raise ValueError(f"{path}:{node.lineno}: {variable} is a dict of numbers") from None
    return {}


def find(room: str, name: str) -> Path:
    """Returns the source file of a module that a config names; UserError where there is none."""
    if "." in name:
        return _find_outside(room, name)
    path = ROOT / room / f"{name}.py"
    if not path.is_file():
        raise _unknown(room, name)
    return path


def module_name(room: str, name: str) -> str:
    """The import path of a module that a config names."""
    return name if "." in name else f"{PACKAGE}.{room}.{name}"


def _unknown(room: str, name: str, why: str = "") -> UserError:
    known = names(room)
    return UserError(
        f"there is no '{name}' in {room}{why}.{nearest(name, known)} There are: {', '.join(known)}"
    )


def _find_outside(room: str, name: str) -> Path:
    try:
        # This imports the packages that hold the module, never the module itself.
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise _unknown(room, name, " nor on the Python path (PYTHONPATH)")
    return Path(spec.origin)


def _parse(path: Path) -> ast.Module:
    return _parse_version(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=256)
def _parse_version(path: Path, modified: int) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def _definition(tree: ast.Module, entry: str) -> ast.FunctionDef | ast.ClassDef | None:
    """The function or class `entry`, or what it is assigned from (`make = SomeClass`)."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == entry:
            return node
        if (
            isinstance(node, ast.Assign)
            and any(isinstance(target, ast.Name) and target.id == entry for target in node.targets)
            and isinstance(node.value, ast.Name)
        ):
            return _definition(tree, node.value.id)
    return None


def _parameters(function: ast.FunctionDef, path: Path) -> dict[str, Knob]:
    args = function.args
    if args.vararg or args.kwarg or args.posonlyargs:
        raise ValueError(
            f"{path}:{function.lineno}: {function.name} takes named parameters only, since they are"
            " the schema; '*args', '**kwargs' and '/' hide them"
        )
    absent: list[ast.expr | None] = [None] * (len(args.args) - len(args.defaults))
    pairs = [*zip(args.args, [*absent, *args.defaults], strict=True)]
    pairs += zip(args.kwonlyargs, args.kw_defaults, strict=True)
    return {arg.arg: _knob(arg.arg, arg.annotation, default, path) for arg, default in pairs}


def _fields(cls: ast.ClassDef, tree: ast.Module, path: Path) -> dict[str, Knob]:
    found: dict[str, Knob] = {}
    for base in reversed(cls.bases):
        name = ast.unparse(base).split("[")[0]
        parent = _definition(tree, name)
        if isinstance(parent, ast.ClassDef):
            found |= _fields(parent, tree, path)
        elif name.split(".")[-1] not in _BARE_BASES:
            raise ValueError(
                f"{path}:{cls.lineno}: {cls.name} inherits from {name}, whose fields can't be read"
                " from this file; write them out here"
            )
    for node in cls.body:
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)):
            continue
        if "ClassVar" not in ast.unparse(node.annotation):
            found[node.target.id] = _knob(node.target.id, node.annotation, node.value, path)
    return found


def _knob(key: str, annotation: ast.expr | None, default: ast.expr | None, path: Path) -> Knob:
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        text = annotation.value
    else:
        text = "" if annotation is None else ast.unparse(annotation)
    if default is None:
        return Knob(None, text, required=True)
    where = f"{path}:{default.lineno}: '{key}' has a default, so it is a setting"
    if not text or not values.known(text):
        raise ValueError(
            f"{where} and its annotation '{text}' must be made of int, float, str, bool, None,"
            " tuple, dict or Literal; without a default it is handed in"
        )
    value = _literal(default, key, path)
    try:
        return Knob(values.coerce(text, value), text, required=False)
    except values.Unfit as error:
        raise ValueError(
            f"{where}; its default {value!r} isn't one of its own type: {error}"
        ) from None


def _literal(node: ast.expr, key: str, path: Path) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError):
        raise ValueError(
            f"{path}:{node.lineno}: '{key}' must be a literal (a number, text, None, a tuple or a"
            f" dict of these), because it is read without importing the module; it is"
            f" {ast.unparse(node)}"
        ) from None
