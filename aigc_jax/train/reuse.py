"""Tells that two functions are one, so that what was compiled for the first serves the second.

A run wraps its task's functions anew (`train.guard`), and JAX compiles a new function anew. Runs
that follow each other in one process and differ only in numbers have the same code around the same
task: closures that are equal part by part.
"""

import types
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

_MOST = 32  # functions that are remembered, and with them what they hold
_known: OrderedDict[Any, Any] = OrderedDict()


class _Same:
    """A key that compares by identity and keeps its object alive, so that no id is used twice."""

    def __init__(self, held: Any) -> None:
        self.held = held

    def __hash__(self) -> int:
        return id(self.held)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.held is other.held


def canonical(function: F) -> F:
    """Returns the first function seen that does the same: equal code over the same things.

    What it closes over counts as the same if it is one object, an equal number or text, or again a
    function of equal code. Nothing that changes in place may stand there.
    """
    key = _key(function)
    if key not in _known and len(_known) >= _MOST:
        _known.popitem(last=False)
    found: F = _known.setdefault(key, function)
    _known.move_to_end(key)
    return found


def _key(value: Any) -> Any:
    if isinstance(value, bool | int | float | str | None):
        return (type(value), value)
    if not isinstance(value, types.FunctionType) or value.__dict__:
        return _Same(value)
    try:
        held = [cell.cell_contents for cell in value.__closure__ or ()]
    except ValueError:  # a function that names itself before it is there
        return _Same(value)
    # A function that holds itself has no end: it is only itself.
    if any(item is value for item in held):
        return _Same(value)
    defaults = [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
    parts = tuple(_key(item) for item in [*held, *defaults])
    return (value.__code__, _Same(value.__globals__), parts)
