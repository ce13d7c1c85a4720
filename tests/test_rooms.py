"""The table of rooms, held against the imports of every file."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = REPOSITORY / "aigc_jax"
LINES = 400

# Room -> what it may import of ours besides itself and `errors`: rooms, or files of them.
MAY = {
    "core": set[str](),
    "models": set[str](),
    "losses": set[str](),
    "tokenizers": set[str](),
    "metrics": set[str](),
    "generate": set[str](),
    "tasks": {"core", "models", "losses", "generate"},
    "data": {"tokenizers"},
    "evals": {"core", "metrics", "tokenizers"},
    "train": {"core"},
    # A group of trials writes run folders as the loop does; results and verdicts read them back.
    "sweep": {"core", "train", "report"},
    "interop": {"core", "models", "metrics", "tokenizers", "generate", "train.checkpoint"},
    "serve": {"core", "tokenizers", "generate", "train.checkpoint"},
    "report": {"core"},
}
SEES_ALL = "cli"
DEVICES = {"jax", "jaxlib", "flax", "optax", "orbax"}
# What no file of these rooms (or of this one file) may import, not even inside a function.
NEVER = {
    "data": DEVICES,
    "tokenizers": DEVICES,
    "report": DEVICES,
    "errors": DEVICES,
    **{
        f"sweep.{name}": DEVICES
        for name in ("space", "plans", "folder", "results", "rerun", "page")
    },
    **{f"core.{name}": DEVICES for name in ("schema", "values", "layout", "overrides", "recipe")},
    "core.config": DEVICES,
    "models": {"optax", "orbax", "ml_collections"},
    "losses": {"flax", "orbax", "ml_collections"},
    "tasks": {"orbax", "ml_collections", "tensorboardX", "wandb"},
}
# A typo is answered before these are loaded: no import of them at the top of a file that the
# parsing of a command line reads.
HEAVY = DEVICES | {"numpy", "matplotlib", "rich", "jinja2", "tensorflow_datasets", "tokenizers"}
LIGHT = ("core.config", "core.schema", "core.values", "core.layout", "core.overrides",
         "core.recipe", "cli", "errors")  # fmt: skip


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.py") if "__pycache__" not in path.parts)


OURS = files(PACKAGE)


def module(path: Path) -> str:
    """The path within the package: "core.config", or "core" for its __init__.py."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imports(tree: ast.AST, top_only: bool = False) -> Iterator[tuple[str, int]]:
    """Yields (dotted name, line) of all that is imported, also inside functions."""
    for node in tree.body if top_only and isinstance(tree, ast.Module) else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are written out, not relative"
            assert node.module is not None
            # `from aigc_jax.core import config` imports aigc_jax.core.config.
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def is_under(name: str, owner: str) -> bool:
    return name == owner or name.startswith(f"{owner}.")


def broken_rules(name: str, tree: ast.Module) -> list[str]:
    """What a file with this place in the package imports and may not."""
    room = name.split(".")[0]
    found = []
    for imported, line in imports(tree):
        top, _, ours = imported.partition(".")
        for owner, never in NEVER.items():
            if is_under(name, owner) and top in never:
                found.append(f"{name}:{line} imports {imported}, which {owner} never does")
        if top in ("configs", "experiments", "tests"):
            found.append(f"{name}:{line} imports {imported}, which stands outside of the package")
        if top != "aigc_jax" or not ours or room == SEES_ALL or not name:
            continue
        allowed = {room, "errors", "__version__", *MAY[room]} if room in MAY else {"errors"}
        if not any(is_under(ours, other) for other in allowed):
            found.append(f"{name}:{line} imports {imported}; {room} may import {sorted(allowed)}")
    return found


@pytest.mark.parametrize("path", OURS, ids=module)
def test_a_room_imports_only_what_the_table_allows(path: Path) -> None:
    assert broken_rules(module(path), parse(path)) == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("core.optim", "from aigc_jax.train import loop"),
        ("models.gpt", "def f():\n    import aigc_jax.losses.token"),
        ("tasks.lm", "from aigc_jax.data.base import Spec"),
        ("data.text", "def f():\n    from jax import numpy"),
        ("data.text", "from aigc_jax.core import config"),
        ("tokenizers.char", "import jax.numpy as jnp"),
        ("report.html", "import flax"),
        ("report.html", "from aigc_jax.train import log"),
        ("report.statistics", "from aigc_jax.sweep import results"),
        ("sweep.results", "import jax"),
        ("core.config", "def f():\n    import jax"),
        ("train.loop", "from aigc_jax.tasks.lm import make"),
        ("serve.http", "from aigc_jax.train import loop"),
        ("evals.mean", "from aigc_jax import models"),
        ("cli.train", "import configs.lm"),
        ("errors", "import aigc_jax.core"),
        ("unheard_of.x", "from aigc_jax.core import config"),
    ],
)
def test_a_breach_is_seen(name: str, text: str) -> None:
    assert broken_rules(name, ast.parse(text))


def test_every_room_stands_in_the_table() -> None:
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms - {SEES_ALL} <= MAY.keys()


@pytest.mark.parametrize(
    "path", [p for p in OURS if any(is_under(module(p), light) for light in LIGHT)], ids=module
)
def test_what_parsing_reads_is_light_at_the_top(path: Path) -> None:
    heavy = {name.split(".")[0] for name, _ in imports(parse(path), top_only=True)} & HEAVY
    assert not heavy, f"{path.name} imports {heavy} at the top; import them inside a function"


RECIPES = files(REPOSITORY / "configs")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_a_recipe_imports_only_ml_collections_and_recipes(path: Path) -> None:
    tops = {name.split(".")[0] for name, _ in imports(parse(path))}
    assert tops <= {"ml_collections", "configs"}


@pytest.mark.parametrize("path", OURS, ids=module)
def test_a_file_is_small_and_says_what_it_holds(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LINES, "a second room is wanted"
    assert path.name not in ("utils.py", "util.py", "helpers.py", "misc.py", "common.py")
    assert ast.get_docstring(parse(path)), "a file begins with what it holds"


@pytest.mark.parametrize("path", OURS + RECIPES, ids=lambda path: str(path.name))
def test_no_default_stands_at_the_point_of_use(path: Path) -> None:
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Attribute) and node.attr in ("get", "setdefault"):
            owner = ast.unparse(node.value).split(".")
            assert not {"config", "cfg"} & set(owner), f"line {node.lineno}: {ast.unparse(node)}"


@pytest.mark.parametrize("path", [p for p in OURS if p.name == "__init__.py"], ids=module)
def test_importing_a_room_imports_nothing_more(path: Path) -> None:
    docstring, *others = parse(path).body
    assert isinstance(docstring, ast.Expr) and isinstance(docstring.value, ast.Constant)
    if path.parent == PACKAGE:
        # The package's own also has `load`; its imports stand within it, but for names of types.
        typing, checking, version, load = others
        assert ast.unparse(typing) == "from typing import TYPE_CHECKING"
        assert isinstance(checking, ast.If) and ast.unparse(checking.test) == "TYPE_CHECKING"
        assert ast.unparse(version).startswith("__version__ = ")
        assert isinstance(load, ast.FunctionDef) and load.name == "load"
        others = []
    assert others == []
