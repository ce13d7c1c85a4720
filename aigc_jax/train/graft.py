"""Weights of one run put into another: whole networks, parts of them, or by a pattern of names."""

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

from aigc_jax.core import optimizers, tree
from aigc_jax.core.units import human
from aigc_jax.errors import UserError
from aigc_jax.train import adapt

_ROOTS = ("params", "vars", "ema")


def initial(
    state: tree.Tree, init_from: Mapping[str, str], say: Callable[[str], None] = print
) -> tree.Tree:
    r"""Puts parts of other runs into a fresh state; see docs/checkpoints.md.

    Each entry is either a part of this state and the part of a run that takes its place, whole
    ("params/model": "runs/a/params/model"), or a regular expression for the names of this state's
    arrays and, with its groups as \1, the name that each has in the run
    ("params/model/block_([0-3])/(.*)": "runs/a/params/net/layer_\1/\2"); what it does not match
    stays as it was initialised. Layers may be scanned on one side and not on the other.

    Args:
      state: on its devices. say: told in one line what was taken, and what was not.

    Raises:
      UserError: no such run or part; arrays that are missing, left over (of a whole part) or
        differently shaped, which are listed.
    """
    for here, there in init_from.items():
        state = _put(state, here, there, say)
    return state


class _Match(NamedTuple):
    """What an entry takes: wanted arrays by their names there, and their names here."""

    wanted: dict[str, Any]
    names: dict[str, str]
    saved: dict[str, Any]
    whole: bool


def _put(state: tree.Tree, here: str, there: str, say: Callable[[str], None]) -> tree.Tree:
    root = here.split("/")[0]
    if root not in _ROOTS or "/" not in here:
        raise UserError(f"init_from: '{here}' must begin with params/, vars/ or ema/.")
    run, part = _split(there)
    arrays = {f"{root}/{name}": leaf for name, leaf in tree.named_leaves(getattr(state, root))}

    def take(item: Path) -> tuple[_Match, dict[str, jax.Array]]:
        held = adapt.saved(item)
        match = _matched(state, here, part, arrays, dict(tree.named_leaves(held)), item)
        plan = adapt.plan(match.wanted, match.saved)
        if plan.problems:
            raise UserError(f"init_from: '{here}' does not fit. {plan.problems}.")
        prefix = f"{part}/" if match.whole else ""
        sources = {
            name: source._replace(names=tuple(prefix + n for n in source.names))
            for name, source in plan.sources.items()
        }
        shapes = {
            name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
            for name, x in match.wanted.items()
        }
        return match, adapt.read(item, held, shapes, sources)

    step, (match, found) = _newest(run / "checkpoints", take)
    say(_note(here, there, step, match, arrays))
    taken = {match.names[name]: x for name, x in found.items()}
    return _replaced(state, root, taken)


def _split(there: str) -> tuple[Path, str]:
    """Splits RUN/params/... where RUN is a folder with checkpoints."""
    places = [m for root in _ROOTS for m in re.finditer(f"/{root}/", there)]
    for place in sorted(places, key=lambda m: -m.start()):
        run = Path(there[: place.start()])
        if len(places) == 1 or (run / "checkpoints").is_dir():
            return run, there[place.start() + 1 :]
    raise UserError(f"init_from: '{there}' is no part of a run; write RUN/params/NETWORK.")


def _matched(
    state: tree.Tree,
    here: str,
    part: str,
    arrays: dict[str, Any],
    saved: dict[str, Any],
    item: Path,
) -> _Match:
    """Finds what an entry speaks of."""
    below = {name: x for name, x in arrays.items() if name == here or name.startswith(f"{here}/")}
    if below or not re.search(r"[\\()\[\]*+?|^$]", here):
        _walk(getattr(state, here.split("/")[0]), here.split("/")[1:], here, "this model")
        inside = {n: x for n, x in saved.items() if n == part or n.startswith(f"{part}/")}
        if not inside:
            _walk(_tree_of(saved), part.split("/"), part, str(item))
        cut = lambda n, of: n[len(of) + 1 :] or n.rpartition("/")[2]  # noqa: E731
        wanted = {cut(n, here): x for n, x in below.items()}
        names = {cut(n, here): n for n in below}
        return _Match(wanted, names, {cut(n, part): x for n, x in inside.items()}, whole=True)
    try:
        pattern = re.compile(here)
        pairs = {n: m.expand(part) for n in arrays if (m := pattern.fullmatch(n))}
    except (re.error, IndexError) as error:
        raise UserError(
            f"init_from: '{here}': '{part}' is no pattern and replacement ({error})."
        ) from None
    if not pairs:
        raise UserError(
            f"init_from: '{here}' matches none of this model's arrays, such as"
            f" {next(iter(arrays))}."
        )
    twice = [name for name in pairs.values() if list(pairs.values()).count(name) > 1]
    wanted = {there: arrays[name] for name, there in pairs.items()}
    if twice:
        raise UserError(f"init_from: '{here}' takes {twice[0]} for several arrays; use its groups.")
    needed = {s for n in wanted if (f := adapt.plan({n: wanted[n]}, saved).sources.get(n))
              for s in f.names}  # fmt: skip
    return _Match(
        wanted, {t: n for n, t in pairs.items()}, {n: saved[n] for n in needed}, whole=False
    )


def _tree_of(names: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for name, leaf in names.items():
        *above, last = name.split("/")
        inner = nested
        for word in above:
            inner = inner.setdefault(word, {})
        inner[last] = leaf
    return nested


def _walk(branch: Any, words: list[str], path: str, what: str) -> None:
    """Raises UserError at the first word that is not there."""
    for word in words:
        if not isinstance(branch, Mapping) or word not in branch:
            names = ", ".join(branch) if isinstance(branch, Mapping) else "nothing below it"
            raise UserError(f"init_from: no '{word}' of '{path}' in {what}; it has: {names}.")
        branch = branch[word]


def _newest(folder: Path, use: Callable[[Path], Any]) -> tuple[int, Any]:
    """Returns the newest checkpoint that can be read, and what `use` makes of it."""
    steps = sorted(int(p.name) for p in folder.glob("*") if p.name.isdigit())
    if not steps:
        raise UserError(f"init_from: no checkpoint in {folder}; has that run saved one?")
    for step in reversed(steps):
        try:
            return step, use(folder.absolute() / str(step) / "state")
        except UserError:
            raise
        except Exception as error:
            problem = f"{step}: {str(error).strip().splitlines()[0][:200]}"
            print(f"aigc: warning: init_from: can't read checkpoint {problem}", file=sys.stderr)
    raise UserError(f"init_from: none of the checkpoints in {folder} can be read.")


def _note(here: str, there: str, step: int, match: _Match, arrays: dict[str, Any]) -> str:
    taken = set(match.names.values())
    root, network = here.split("/")[:2]
    # A pattern may speak of several networks; then all of them count.
    near = f"{root}/{network}/" if re.fullmatch(r"\w+", network) else f"{root}/"
    left = {n: x for n, x in arrays.items() if n not in taken and n.startswith(near)}
    count = sum(x.size for x in match.wanted.values())
    words = (
        f"init_from: {here}: {len(taken)} arrays ({human(count)} numbers) of {there}, step {step}"
    )
    return words + (f"; left as initialised: {adapt.listed(left)}" if left else "")


def _replaced(state: tree.Tree, root: str, taken: Mapping[str, Any]) -> tree.Tree:
    """Puts arrays in their places, and in the averages' of parameters; moments begin anew."""
    new = tree.map_named(lambda name, x: taken.get(f"{root}/{name}", x), getattr(state, root))
    state = state.replace(**{root: new})
    if root == "params":
        # A copy: the step donates both, and one buffer can't be given away twice.
        copied = {n: x.copy() for n, x in taken.items()}
        ema = tree.map_named(lambda name, x: copied.get(f"params/{name}", x), state.ema)
        fresh = {side: optimizers.restarted(opt, new) for side, opt in state.opt.items()}
        state = state.replace(opt=fresh, ema=ema)
    return state
