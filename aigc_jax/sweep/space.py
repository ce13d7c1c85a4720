"""The algebra of search spaces: what a recipe's `get_sweep(h)` says with `h`.

    def get_sweep(h):
        return {
            "lr": h.grid("hyper.lr", [1e-4, 3e-4, 1e-3]),
            "shape": h.zip(h.grid("task.model.width", [64, 128]),
                           h.grid("task.model.heads", [2, 4])),
            "tuned": h.draw("hyper.lr", h.Float(1e-4, 1e-1, log=True)),
        }

A space is a list of points (what they set, by dotted path), made one by one and only when asked
for, or what a sampler draws points from. Nothing here knows JAX, Optuna or a config's schema.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Self

from aigc_jax.errors import UserError, nearest

Point = dict[str, Any]


class Float(NamedTuple):
    """A number between `low` and `high`, evenly or (`log`) evenly in its logarithm."""

    low: float
    high: float
    log: bool = False


class Int(NamedTuple):
    """A whole number from `low` to `high`, both included."""

    low: int
    high: int
    log: bool = False


class Choice(NamedTuple):
    """One of some values that have no order."""

    values: tuple[Any, ...]


Distribution = Float | Int | Choice


class Space(NamedTuple):
    """A node of the algebra.

    Attributes:
      kind: "grid", "fixed", "draw", "product", "zip" or "chain".
      path: what a leaf sets. values: of a grid or a fixed setting. drawn: of a draw.
      parts: of the other kinds.
    """

    kind: str
    path: str = ""
    values: Sequence[Any] = ()
    drawn: Distribution | None = None
    parts: tuple["Space", ...] = ()

    @property
    def draws(self) -> dict[str, Distribution]:
        """What a sampler chooses, by path."""
        if self.drawn is not None:
            return {self.path: self.drawn}
        return {path: d for part in self.parts for path, d in part.draws.items()}

    @property
    def paths(self) -> list[str]:
        """Every setting that a point may set, in the order of writing."""
        found = [self.path] if self.path else [p for part in self.parts for p in part.paths]
        return list(dict.fromkeys(found))

    @property
    def size(self) -> int:
        """How many points it lists, draws left out."""
        if self.kind == "draw":
            return 1
        if not self.parts:
            return len(self.values)
        sizes = [part.size for part in self.parts]
        if self.kind == "zip":
            return sizes[0]
        return sum(sizes) if self.kind == "chain" else math.prod(sizes)

    def point(self, i: int) -> Point:
        """Point `i` of the list; of a product the last part varies fastest."""
        if self.kind == "draw":
            return {}
        if not self.parts:
            return {self.path: _plain(self.values[i])}
        if self.kind == "chain":
            for part in self.parts:
                if i < part.size:
                    return part.point(i)
                i -= part.size
        found: Point = {}
        for part in reversed(self.parts):
            if self.kind == "zip":
                found = part.point(i) | found
            else:
                i, rest = divmod(i, part.size)
                found = part.point(rest) | found
        return found

    def points(self) -> Iterator[Point]:
        """All of the list, in order."""
        return (self.point(i) for i in range(self.size))

    def to_dict(self) -> dict[str, Any]:
        """A description that JSON can hold; `read` takes it back."""
        said: dict[str, Any] = {"kind": self.kind}
        if self.path:
            said["path"] = self.path
        if self.drawn is not None:
            said[type(self.drawn).__name__.lower()] = _listed(list(self.drawn))
        elif isinstance(self.values, range):
            said["range"] = [self.values.start, self.values.stop, self.values.step]
        elif self.path:
            said["values"] = [_listed(_plain(value)) for value in self.values]
        if self.parts:
            said["parts"] = [part.to_dict() for part in self.parts]
        return said

    @classmethod
    def read(cls, said: Mapping[str, Any]) -> Self:
        """Takes `to_dict`'s description back."""
        drawn: Distribution | None = None
        for kind in (Float, Int, Choice):
            if kind.__name__.lower() in said:
                fields = said[kind.__name__.lower()]
                drawn = Choice(tuple(fields[0])) if kind is Choice else kind(*fields)
        values = range(*said["range"]) if "range" in said else said.get("values", ())
        parts = tuple(cls.read(part) for part in said.get("parts", ()))
        return cls(said["kind"], said.get("path", ""), values, drawn, parts)


def grid(path: str, values: Sequence[Any]) -> Space:
    """Each of these values in turn.

    Raises:
      UserError: a distribution where a grid is needed, or no values.
    """
    call = f"h.grid('{path}', ...)"
    if isinstance(values, Float | Int | Choice):
        raise UserError(
            f"{call}: a distribution where a grid is needed; list the values, or write"
            f" h.draw('{path}', h.{type(values).__name__}(...)) to let a sampler choose."
        )
    if isinstance(values, str | bytes) or not hasattr(values, "__iter__"):
        raise UserError(f"{call}: expected a list of values, got {values!r}.")
    listed = values if isinstance(values, range) else tuple(values)
    if not listed:
        raise UserError(f"{call}: an empty space; give one value or more.")
    return Space("grid", _path(path, call), listed)


def fixed(path: str, value: Any) -> Space:
    """One value, for all points."""
    return Space("fixed", _path(path, "h.fixed"), (value,))


def draw(path: str, distribution: Distribution) -> Space:
    """What a sampler chooses from a distribution: `Float`, `Int` or `Choice`."""
    call = f"h.draw('{path}', ...)"
    if not isinstance(distribution, Float | Int | Choice):
        raise UserError(
            f"{call}: expected h.Float(low, high), h.Int(low, high) or h.Choice(values), got"
            f" {distribution!r}; h.grid takes a list."
        )
    return Space("draw", _path(path, call), drawn=distribution)


def product(*parts: Space) -> Space:
    """Each point of one part with each of the others; draws may be parts."""
    return _joined("product", parts)


def zip_(*parts: Space) -> Space:
    """The first points of all parts together, then the second ones, ...

    Raises:
      UserError: parts of different sizes, or a distribution.
    """
    made = _joined("zip", parts)
    sizes = [part.size for part in parts]
    if len(set(sizes)) > 1:
        raise UserError(f"h.zip: parts of {', '.join(map(str, sizes))} points; expected one size.")
    return made


def chain(*parts: Space) -> Space:
    """The points of one part after those of another; they may set different things."""
    return _joined("chain", parts)


def number(low: float, high: float, log: bool = False) -> Float:
    """A distribution over numbers from `low` to `high`."""
    _check_bounds("h.Float", low, high, log)
    return Float(float(low), float(high), bool(log))


def whole(low: int, high: int, log: bool = False) -> Int:
    """A distribution over the whole numbers from `low` to `high`, both included."""
    _check_bounds("h.Int", low, high, log)
    if int(low) != low or int(high) != high:
        raise UserError(f"h.Int({low}, {high}): expected whole numbers; h.Float takes others.")
    return Int(int(low), int(high), bool(log))


def choice(*values: Any) -> Choice:
    """A distribution over values without an order, as a list or one by one."""
    listed = values[0] if len(values) == 1 and isinstance(values[0], list | tuple) else values
    if not listed:
        raise UserError("h.Choice(): an empty space; give one value or more.")
    return Choice(tuple(_plain(value) for value in listed))


class Algebra:
    """What a recipe is handed as `h`."""

    grid = staticmethod(grid)
    product = staticmethod(product)
    zip = staticmethod(zip_)
    chain = staticmethod(chain)
    fixed = staticmethod(fixed)
    draw = staticmethod(draw)
    Float = staticmethod(number)
    Int = staticmethod(whole)
    Choice = staticmethod(choice)


def chosen(made: Any, names: Sequence[str], label: str) -> Space | None:
    """Picks from what `get_sweep` returned: a space, or named spaces.

    Args:
      made: its result; None where the recipe has none. names: as typed after --sweep=; several are
        multiplied. label: the recipe's name, for messages.

    Raises:
      UserError: a name that isn't there, none where there are several, or a result of another type.
    """
    if made is None and not names:
        return None
    if made is None:
        raise UserError(f"{label} has no get_sweep(h), so no sweep '{names[0]}'; define one.")
    spaces = made if isinstance(made, dict) else {"": made}
    for name, space in spaces.items():
        if not isinstance(space, Space):
            where = f" under '{name}'" if name else ""
            raise UserError(
                f"{label}: get_sweep gives {type(space).__name__}{where}; expected a space or a"
                " dict of them: make it with h.grid, h.draw, ..."
            )
    if not spaces:
        raise UserError(f"{label}: get_sweep gives an empty dict; an empty space has no trials.")
    if not names and len(spaces) > 1:
        raise UserError(f"{label} has several sweeps: choose with --sweep={','.join(spaces)}")
    for name in names:
        if name not in spaces or not name:
            there = ", ".join(filter(None, spaces)) or "one without a name: leave --sweep out"
            raise UserError(
                f"--sweep={name}: no such sweep.{nearest(name, spaces)} {label} has: {there}"
            )
    picked = [spaces[name] for name in names] or list(spaces.values())
    return picked[0] if len(picked) == 1 else product(*picked)


def _joined(kind: str, parts: Sequence[Space]) -> Space:
    if not parts:
        raise UserError(f"h.{kind}(): an empty space; give one part or more.")
    for part in parts:
        if not isinstance(part, Space):
            raise UserError(f"h.{kind}: expected parts made by h.grid and the like, got {part!r}.")
        if kind != "product" and part.draws:
            raise UserError(
                f"h.{kind}: a distribution where a grid is needed, at '{next(iter(part.draws))}';"
                " a sampler's points have no list. Use h.grid, or h.product around all."
            )
    paths = [path for part in parts for path in part.paths]
    twice = [path for path in paths if paths.count(path) > 1]
    if twice and kind != "chain":
        raise UserError(f"h.{kind}: two parts set '{twice[0]}'; one point has one value of it.")
    return Space(kind, parts=tuple(parts))


def _path(path: Any, call: str) -> str:
    if not isinstance(path, str) or not all(path.split(".")) or "=" in path:
        raise UserError(f"{call}: expected a dotted path such as 'hyper.lr', got {path!r}.")
    return path.removeprefix("config.")


def _check_bounds(call: str, low: Any, high: Any, log: Any) -> None:
    good = all(isinstance(x, int | float) and not isinstance(x, bool) for x in (low, high))
    if not good or not (math.isfinite(low) and math.isfinite(high)) or low > high:
        raise UserError(f"{call}({low!r}, {high!r}): expected two numbers, the smaller one first.")
    if log and low <= 0:
        raise UserError(f"{call}({low!r}, {high!r}, log=True): a logarithm needs numbers above 0.")


def _plain(value: Any) -> Any:
    """A scalar of NumPy becomes Python's own."""
    return value.item() if hasattr(value, "item") and not isinstance(value, type) else value


def _listed(value: Any) -> Any:
    """Tuples as lists, as JSON has them."""
    if isinstance(value, tuple | list):
        return [_listed(item) for item in value]
    return value
