"""Values by their annotated type: what fits, how typed text is read, how a type is said in words.

An annotation is the text that stands in a signature: `int`, `float | None`, `tuple[int, ...]`,
`dict[str, float]`, `Literal["cosine", "linear"]`. It is read with `ast`, never evaluated, so that
the module it stands in need not be imported.
"""

import ast
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from aigc_jax.errors import nearest

_SCALARS = {"int": int, "float": float, "str": str, "bool": bool}
_GROUPS = {"tuple": tuple, "dict": dict, "Mapping": dict, "Sequence": tuple, "list": tuple}
_NOT_FINITE = ("inf", "-inf", "nan")


class Unfit(ValueError):
    """The value doesn't fit the annotation; the message says what was expected."""


def known(annotation: str) -> bool:
    """Whether a setting can have this type: numbers, text, None, tuples and dicts of these."""
    try:
        options = _options(annotation)
    except SyntaxError:
        return False
    return all(_is_known(option) for option in options)


def coerce(annotation: str, value: Any) -> Any:
    """Returns `value` as `annotation` wants it: ints become floats, lists become tuples.

    Raises Unfit where it doesn't fit. A bool is no int, and text is no number, except that "inf",
    "-inf" and "nan" are floats, which is how a saved config spells them (JSON has no such numbers).
    """
    options = _options(annotation)
    for exact in (True, False):
        for option in options:
            try:
                return _coerce(option, value, exact)
            except Unfit:
                continue
    raise Unfit(_expected(annotation, value))


def parse(annotation: str, text: str) -> Any:
    """Reads what was typed on a command line as `annotation` wants it.

    `None` is None where that is allowed; tuples are `(1,2)` or `1,2`; bools are `true` or `false`;
    an int is good for a float, but `3.5` is no int. Raises Unfit.
    """
    # Text takes anything, so it comes last.
    for option in sorted(_options(annotation), key=lambda node: _head(node) == "str"):
        try:
            return _parse(option, text)
        except Unfit:
            continue
    raise Unfit(_expected(annotation, text))


def item(annotation: str) -> str | None:
    """The type of a dict's values ("int" for `dict[str, int]`), or None where it is no dict."""
    for option in _options(annotation):
        if _GROUPS.get(_head(option)) is dict:
            inside = _inside(option)
            return ast.unparse(inside[1]) if len(inside) == 2 else "Any"
    return None


@lru_cache(maxsize=1024)
def _options(annotation: str) -> tuple[ast.expr, ...]:
    return tuple(_branches(ast.parse(annotation, mode="eval").body))


def _branches(node: ast.expr) -> Iterator[ast.expr]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        yield from _branches(node.left)
        yield from _branches(node.right)
    else:
        yield node


def _head(node: ast.expr) -> str:
    """The name that a type begins with: "tuple" for `tuple[int, ...]`, "None" for None."""
    if isinstance(node, ast.Subscript):
        return _head(node.value)
    if isinstance(node, ast.Attribute):
        return node.attr
    if isinstance(node, ast.Name):
        return node.id
    return "None" if isinstance(node, ast.Constant) and node.value is None else ""


def _inside(node: ast.expr) -> list[ast.expr]:
    """What stands between the brackets."""
    if not isinstance(node, ast.Subscript):
        return []
    return list(node.slice.elts) if isinstance(node.slice, ast.Tuple) else [node.slice]


def _is_known(node: ast.expr) -> bool:
    head, inside = _head(node), _inside(node)
    if head == "Literal":
        return bool(inside) and all(isinstance(item, ast.Constant) for item in inside)
    if head in _GROUPS:
        return all(_is_ellipsis(item) or known(ast.unparse(item)) for item in inside)
    return head in ("None", "Any") or (head in _SCALARS and not inside)


def _is_ellipsis(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is Ellipsis


def _literals(node: ast.expr) -> list[Any]:
    """The values that a Literal allows; none for another type."""
    inside = _inside(node) if _head(node) == "Literal" else []
    return [item.value for item in inside if isinstance(item, ast.Constant)]


def _coerce(node: ast.expr, value: Any, exact: bool) -> Any:
    head = _head(node)
    if head == "None" and value is None:
        return None
    if head == "Any":
        return _free(value)
    if head == "Literal":
        for option in _literals(node):
            if option == value and type(option) is type(value):
                return option
    elif head in _SCALARS:
        return _coerce_scalar(head, value, exact)
    elif _GROUPS.get(head) is tuple and isinstance(value, tuple | list):
        return _coerce_tuple(_inside(node), tuple(value))
    elif _GROUPS.get(head) is dict and isinstance(value, dict):
        free = _free(value)
        inside = _inside(node)
        if len(inside) != 2:
            return free
        return {key: coerce(ast.unparse(inside[1]), item) for key, item in value.items()}
    raise Unfit


def _coerce_scalar(head: str, value: Any, exact: bool) -> Any:
    if isinstance(value, bool) and head != "bool":
        raise Unfit
    if isinstance(value, _SCALARS[head]):
        return _SCALARS[head](value)
    if head == "float" and not exact:
        if isinstance(value, int):
            return float(value)
        if isinstance(value, str) and value in _NOT_FINITE:
            return float(value)
    raise Unfit


def _coerce_tuple(inside: list[ast.expr], value: tuple[Any, ...]) -> tuple[Any, ...]:
    if not inside:
        return tuple(_free(item) for item in value)
    if len(inside) == 2 and _is_ellipsis(inside[1]):
        inside = [inside[0]] * len(value)
    if len(inside) != len(value):
        raise Unfit
    return tuple(coerce(ast.unparse(node), item) for node, item in zip(inside, value, strict=True))


def _free(value: Any) -> Any:
    """Checks a value whose type is left open: it must still be one that a JSON file can hold."""
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise Unfit("expected text as the keys")
        return {key: _free(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return tuple(_free(item) for item in value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise Unfit(f"expected numbers, text, tuples and dicts, not a {type(value).__name__}")


def _parse(node: ast.expr, text: str) -> Any:
    head = _head(node)
    if head == "None" and text == "None":
        return None
    if head == "Literal":
        for option in _literals(node):
            if str(option) == text:
                return option
    elif head == "str":
        return text
    elif head == "bool" and text.lower() in ("true", "false"):
        return text.lower() == "true"
    elif head in ("int", "float"):
        try:
            return int(text) if head == "int" else float(text)
        except ValueError:
            raise Unfit from None
    elif head == "Any":
        return _free(_literal(text, otherwise=text))
    elif _GROUPS.get(head) is tuple:
        return _parse_tuple(node, text)
    elif _GROUPS.get(head) is dict:
        return _coerce(node, _literal(text), exact=False)
    raise Unfit


def _parse_tuple(node: ast.expr, text: str) -> tuple[Any, ...]:
    value = _literal(text, otherwise=None)
    if isinstance(value, tuple | list):
        result: tuple[Any, ...] = _coerce(node, value, exact=False)
        return result
    # Without brackets and quotes: `a,b`, or a tuple of one.
    inside = _inside(node) or [ast.Name("Any"), ast.Constant(...)]
    words = [word.strip() for word in text.strip("()").split(",") if word.strip()]
    if len(inside) == 2 and _is_ellipsis(inside[1]):
        inside = [inside[0]] * len(words)
    if len(inside) != len(words):
        raise Unfit
    return tuple(parse(ast.unparse(item), word) for item, word in zip(inside, words, strict=True))


_NOTHING = object()


def _literal(text: str, otherwise: Any = _NOTHING) -> Any:
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        if otherwise is _NOTHING:
            raise Unfit from None
        return otherwise


def _expected(annotation: str, value: Any) -> str:
    """What should have come, for a message: "expected int", "expected one of: cosine, linear"."""
    options = _options(annotation)
    choices = [str(option) for node in options for option in _literals(node)]
    if not choices:
        return f"expected {annotation}{_example(options)}"
    others = [ast.unparse(node) for node in options if _head(node) != "Literal"]
    return f"expected one of: {', '.join(choices + others)}.{nearest(str(value), choices)}"


def _example(options: tuple[ast.expr, ...]) -> str:
    heads = {_head(node) for node in options}
    if heads == {"bool"}:
        return " (true or false)"
    if any(_GROUPS.get(head) is tuple for head in heads):
        return ", written as (1,2) or 1,2"
    if any(_GROUPS.get(head) is dict for head in heads):
        return ", written as {'key': value}"
    return " (a whole number)" if "int" in heads and "float" not in heads else ""
