"""The algebra of search spaces, and what `aigc sweep` checks before anything runs."""

import importlib.util
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aigc_jax.cli import main, sweep
from aigc_jax.core import config, recipe
from aigc_jax.errors import UserError
from aigc_jax.sweep import folder, plans, space
from aigc_jax.sweep.space import Algebra as h
from aigc_jax.sweep.space import Space

A, B, C = "hyper.lr", "run.seed", "task.model.width"


# --- the algebra -----------------------------------------------------------------------------


def test_a_product_goes_through_the_last_part_fastest() -> None:
    made = h.product(h.grid(A, [1, 2]), h.grid(B, range(3)))
    assert made.size == 6
    want = [{A: a, B: b} for a, b in itertools.product([1, 2], range(3))]
    assert list(made.points()) == want
    assert [list(point) for point in made.points()] == [[A, B]] * 6


def test_zip_chain_and_fixed() -> None:
    zipped = h.zip(h.grid(A, [1, 2]), h.grid(B, [3, 4]))
    assert list(zipped.points()) == [{A: 1, B: 3}, {A: 2, B: 4}]
    chained = h.chain(h.product(h.fixed(C, 8), zipped), h.grid(B, [9]))
    assert list(chained.points()) == [{C: 8, A: 1, B: 3}, {C: 8, A: 2, B: 4}, {B: 9}]
    assert (chained.size, chained.paths) == (3, [C, A, B])


def test_draws_stand_beside_a_list() -> None:
    made = h.product(h.draw(A, h.Float(1e-4, 1e-1, log=True)), h.grid(B, [0, 1]))
    assert made.draws == {A: space.Float(1e-4, 1e-1, True)}
    assert list(made.points()) == [{B: 0}, {B: 1}]


def test_a_grid_is_not_made_before_it_is_asked_for() -> None:
    wide = h.product(*(h.grid(f"data.x{i}", range(10**6)) for i in range(3)))
    assert wide.size == 10**18
    assert wide.point(10**18 - 1) == {f"data.x{i}": 10**6 - 1 for i in range(3)}


parts = st.recursive(
    st.integers(1, 3),
    lambda inner: st.tuples(st.sampled_from(["product", "chain"]), st.lists(inner, min_size=1)),
    max_leaves=5,
)


@settings(max_examples=40, deadline=None)
@given(parts)
def test_the_size_is_the_number_of_points_and_a_description_is_read_back(tree: Any) -> None:
    count = itertools.count()

    def build(node: Any) -> Space:
        if isinstance(node, int):
            return h.grid(f"hyper.x{next(count)}", [float(i) for i in range(node)])
        kind, inside = node
        return getattr(h, kind)(*(build(item) for item in inside))

    made = build(tree)
    points = list(made.points())
    assert len(points) == made.size
    assert len({json.dumps(point, sort_keys=True) for point in points}) == made.size
    again = Space.read(json.loads(json.dumps(made.to_dict())))
    assert list(again.points()) == points


def test_every_distribution_is_read_back() -> None:
    drawn = {
        A: h.Float(0.1, 1), B: h.Int(1, 1000, log=True), C: h.Choice("a", 2, None, (1, 2)),
    }  # fmt: skip
    made = h.product(*(h.draw(path, d) for path, d in drawn.items()), h.grid("run.steps", range(4)))
    again = Space.read(json.loads(json.dumps(made.to_dict())))
    assert again.draws[A] == drawn[A]
    assert again.draws[B] == drawn[B]
    assert list(again.draws[C].values) == ["a", 2, None, [1, 2]]  # type: ignore[union-attr]
    assert again.size == 4


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: h.grid(A, []), "an empty space"),
        (lambda: h.product(), "an empty space"),
        (lambda: h.Choice(), "an empty space"),
        (lambda: h.grid(A, h.Float(0, 1)), "a distribution where a grid is needed"),
        (lambda: h.zip(h.draw(A, h.Int(0, 1))), "a distribution where a grid is needed"),
        (lambda: h.chain(h.draw(A, h.Int(0, 1))), "a distribution where a grid is needed"),
        (lambda: h.draw(A, [1, 2]), "h.grid takes a list"),
        (lambda: h.grid(A, "abc"), "expected a list of values"),
        (lambda: h.grid("hyper..lr", [1]), "expected a dotted path"),
        (lambda: h.zip(h.grid(A, [1]), h.grid(B, [1, 2])), "parts of 1, 2 points"),
        (lambda: h.product(h.grid(A, [1]), h.grid(A, [2])), f"two parts set '{A}'"),
        (lambda: h.product(h.grid(A, [1]), 3), "expected parts made by"),
        (lambda: h.Float(1, 0), "the smaller one first"),
        (lambda: h.Float(0, 1, log=True), "a logarithm needs numbers above 0"),
        (lambda: h.Float(0, float("inf")), "expected two numbers"),
        (lambda: h.Int(0, 1.5), "expected whole numbers"),
    ],
)
def test_what_makes_no_space_is_told(make: Any, words: str) -> None:
    with pytest.raises(UserError, match="h") as caught:
        make()
    assert words in str(caught.value)


# --- a recipe's own --------------------------------------------------------------------------

RECIPE = """
from ml_collections import ConfigDict


def get_config(arg=None):
    return ConfigDict({
        "task": {"name": "lm", "model": {"name": "transformer", "width": 8, "heads": 2}},
        "data": {"name": "text", "path": "text.txt"},
        "run": {"best": "-validation/accuracy"},
    })


def get_sweep(h):
    return {
        "lr": h.grid("hyper.lr", [1e-3, 1e-2]),
        "both": h.product(h.grid("hyper.lr", [1e-3]), h.grid("run.seed", [5])),
        "width": h.grid("task.model.width", [8, 16]),
        "model": h.zip(h.grid("task.name", ["classifier", "lm"]),
                       h.grid("task.model.name", ["cnn", "transformer"])),
        "drawn": h.product(h.draw("hyper.lr", h.Float(1e-4, 1e-1, log=True)),
                           h.draw("task.model.heads", h.Choice(1, 2))),
        "choice": h.draw("task.model.heads", h.Choice(1, 2)),
        "typo": h.grid("hyper.lrr", [1]),
        "late": h.chain(h.grid("hyper.lr", [1]), h.grid("run.step", [1])),
        "kind": h.grid("run.steps", [10, 1.5]),
        "drawn_typo": h.draw("task.model.widht", h.Int(1, 2)),
        "drawn_kind": h.draw("run.steps", h.Float(1, 2)),
        "huge": h.product(h.grid("run.seed", range(3000)), h.grid("run.steps", range(1, 2001))),
    }
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("space")
    (path / "recipe.py").write_text(RECIPE)
    return path


def aigc(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main.main(["sweep", *words])
    said = capsys.readouterr()
    return code, said.out, said.err


def dry(home: Path, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    code, out, err = aigc(capsys, str(home / "recipe.py"), "--dry-run", *words)
    assert (code, err) == (0, "")
    return out


def test_names_choose_and_multiply(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = dry(home, capsys, "--sweep=lr,width", "--seeds=3").splitlines()
    assert len(out) == 2 * 2 * 3 + 1
    assert out[1].split(maxsplit=1)[1] == "hyper.lr=0.001  task.model.width=8  run.seed=1"
    assert "12 trials in runs/recipe-lr-width, engine local" in out[-1]
    assert "validation/accuracy, more is better" in out[-1]


def test_seeds_alone_begin_with_the_recipes_own(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = dry(home, capsys, "--seeds=2", "--config.run.seed=7").splitlines()
    assert [line.split()[-1] for line in out[:2]] == ["run.seed=7", "run.seed=8"]
    assert "runs/recipe-seeds, engine vectorised" in out[2]


@pytest.mark.parametrize(
    ("words", "engine"),
    [
        (("--sweep=lr",), "vectorised"),
        (("--sweep=lr", "--workers=2"), "local"),
        (("--sweep=lr", "--pruner=asha"), "local"),
        (("--sweep=width",), "local"),
        (("--sweep=drawn",), "local"),
        (("--sweep=both",), "local"),
        (("--sweep=lr", "--engine=local"), "local"),
        (("--sweep=lr", "--config.run.fingerprint=1"), "local"),
    ],
)
def test_which_engine_is_taken(
    home: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], engine: str
) -> None:
    assert f"engine {engine};" in dry(home, capsys, *words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "several sweeps: choose with --sweep=lr,both"),
        (("--sweep=lrr",), "Did you mean 'lr'?"),
        (("--sweep=typo",), "Did you mean 'hyper.lr'?"),
        (("--sweep=late",), "Did you mean 'run.steps'?"),
        (("--sweep=kind",), "--config.run.steps=1.5: expected int"),
        (("--sweep=drawn_typo",), "Did you mean 'task.model.width'?"),
        (("--sweep=drawn_kind",), "--config.run.steps=1.0: expected int"),
        (("--sweep=both", "--seeds=2"), "sets run.seed itself"),
        (("--sweep=lr,both",), "two parts set 'hyper.lr'"),
        (("--sweep=drawn", "--sampler=grid"), "a distribution where a grid is needed"),
        (("--sweep=lr", "--sampler=tpe"), "this space is a grid"),
        (("--sweep=drawn", "--sampler=tep"), "Did you mean 'tpe'?"),
        (("--sweep=lr", "--pruner=hyberband"), "Did you mean 'hyperband'?"),
        (("--sweep=lr", "--engine=slrum"), "Did you mean 'slurm'?"),
        (("--sweep=drawn", "--engine=vectorised"), "a search needs --engine=local"),
        (("--sweep=lr", "--seeds=0"), "--seeds=0: expected 1 or more"),
        (("--sweep=huge",), "6,000,000 trials; give --yes"),
        (("--sweep=choice", "--sampler=cmaes"), "'task.model.heads' is an h.Choice; choose tpe"),
        (
            ("--sweep=lr", "--engine=vectorised", "--config.run.fingerprint=1"),
            "since they round otherwise than runs alone; choose --engine=local",
        ),
        (("--sweep=lr", "--slurm=partition=gpu"), "an option of --engine=slurm"),
        (("--sweep=lr", "--engine=vectorised", "--workers=2"), "is one process"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(
    home: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.chdir(home)
    before = sorted(home.rglob("*"))
    code, out, err = aigc(capsys, "recipe.py", *words)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert said in err
    assert sorted(home.rglob("*")) == before


def test_cmaes_says_what_it_draws_by_lot_and_what_it_needs(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = dry(home, capsys, "--sweep=drawn", "--sampler=cmaes")
    assert out.startswith("cmaes is for numbers: task.model.heads is drawn by lot")
    real = importlib.util.find_spec
    with monkeypatch.context() as patch:
        patch.setattr(
            importlib.util,
            "find_spec",
            lambda name, *a: None if name == "cmaes" else real(name, *a),
        )
        code, _, err = aigc(capsys, str(home / "recipe.py"), "--sweep=drawn", "--sampler=cmaes")
    assert (code, err.count("\n")) == (2, 1)
    assert "pip install 'aigc-jax[sweep]'" in err


def test_some_of_a_huge_grid_by_lot(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = dry(home, capsys, "--sweep=huge", "--trials=3", "--sampler=random").splitlines()[:-1]
    more = dry(home, capsys, "--sweep=huge", "--trials=5", "--sampler=random").splitlines()[:-1]
    assert len({*more}) == 5
    assert more[:3] == few, "with more trials the first ones stay"
    first = dry(home, capsys, "--sweep=huge", "--trials=3").splitlines()
    assert [line.split()[1:] for line in first[:2]] == [
        ["run.seed=0", "run.steps=1"], ["run.seed=0", "run.steps=2"],
    ]  # fmt: skip


def test_a_dry_run_of_millions_shows_the_first(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = dry(home, capsys, "--sweep=huge").splitlines()
    assert len(out) == 12 and "6,000,000 trials in" in out[-1].replace("6000000", "6,000,000")
    assert out[-2] == "... the first 10 of 6,000,000; only these were checked"


def test_the_commands_of_the_guide_to_clusters_are_right(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).resolve().parent.parent)
    text = Path("docs/clusters.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("aigc sweep configs/")]
    assert len(lines) == 2
    for line in lines:
        code, out, err = aigc(capsys, *line.split()[2:], "--dry-run")
        assert (code, err) == (0, "") and "6 trials in runs/lr" in out


class Terminal:
    def __init__(self, answer: str) -> None:
        self.readline = lambda: answer

    def isatty(self) -> bool:
        return True


def test_a_grid_of_millions_asks_at_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdin", Terminal("n\n"))
    with pytest.raises(UserError, match="nothing was started"):
        sweep._ask_about(6_000_000, 6_000_000, False)
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    sweep._ask_about(6_000_000, 6_000_000, False)
    monkeypatch.setattr("sys.stdin", Terminal("n\n"))
    sweep._ask_about(6_000_000, 6_000_000, True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("get_sweep = 3", "get_sweep is 3"),
        ("def get_sweep(): return 1", "expected get_sweep(h)"),
        ("def get_sweep(h): return [1]", "gives list; expected a space"),
        ("def get_sweep(h): return {}", "an empty dict"),
        ("def get_sweep(h): return {'a': 3}", "gives int under 'a'"),
        ("def get_sweep(h): return h.grid('hyper.lr', [])", "own.py:11: h.grid('hyper.lr'"),
        ("def get_sweep(h): return h.gird()", "own.py:11: AttributeError"),
        ("", "has no get_sweep(h); define one, or give --seeds=N"),
        ("# lr", "has no get_sweep(h), so no sweep 'lr'"),
    ],
)
def test_a_recipe_that_gives_no_space(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    head = RECIPE.partition("def get_sweep")[0].rstrip() + "\n"
    (tmp_path / "own.py").write_text(head + text + "\n")
    code, out, err = aigc(
        capsys, str(tmp_path / "own.py"), *(["--sweep=lr"] if "#" in text else [])
    )
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert said in err


def test_get_sweep_may_take_the_recipes_argument(tmp_path: Path) -> None:
    text = "def get_sweep(h, arg):\n    return h.grid('hyper.lr', [len(arg)])\n"
    (tmp_path / "own.py").write_text(text)
    made = recipe.read_sweep(f"{tmp_path / 'own.py'}:four", h)
    assert made.point(0) == {"hyper.lr": 4}


# --- plans and folders -----------------------------------------------------------------------


def test_a_plan_is_what_the_command_line_gives(home: Path) -> None:
    spec, typed = str(home / "recipe.py"), ["--config.hyper.warmup=3"]
    points = [
        {A: 0.1},
        {C: 16},
        {"task.model.name": "transformer"},
        {"mesh.rules": (("kernel", ()),)},
    ]
    planned = plans.plan(spec, typed, [*points, {A: 0.1}], Path("root"))
    assert len(planned) == 4, "one config stands once"
    for trial in planned:
        own = config.load(spec, trial.overrides)
        assert trial.config == config.to_dict(own)
        assert config.digest(own).startswith(trial.id)
        assert trial.workdir.name.endswith(f"-{trial.id}")
        assert trial.command.startswith(f"aigc train {spec} --config.hyper.warmup=3 ")


def test_what_a_program_follows_from(home: Path) -> None:
    spec = str(home / "recipe.py")
    points = [{}, {A: 0.1}, {B: 4}, {C: 16}, {"run.steps": 9}]
    kinds = [plans.structure(t.config) for t in plans.plan(spec, [], points, Path())]
    assert kinds[0] == kinds[1] == kinds[2]
    assert len({*kinds}) == 3


def test_a_folder_belongs_to_one_sweep(tmp_path: Path) -> None:
    first = h.grid(A, (1, 2)).to_dict()
    mine = folder.Sweep("a.py", ["--config.run.seed=1"], first, "x", "minimize")
    folder.claim(tmp_path / "s", mine)
    folder.claim(tmp_path / "s", mine)
    assert folder.read(tmp_path / "s") == mine
    other = mine._replace(space=h.grid(A, (1, 3)).to_dict(), metric="y")
    with pytest.raises(UserError, match="holds another sweep") as caught:
        folder.claim(tmp_path / "s", other)
    assert "metric: x -> y" in str(caught.value)
    assert folder.read(tmp_path / "s") == mine
    (tmp_path / "s" / "sweep.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        folder.read(tmp_path / "s")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    with pytest.raises(UserError, match="holds a single run"):
        folder.claim(tmp_path / "run", mine)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="a file stands in its place"):
        folder.claim(tmp_path / "file", mine)


@pytest.mark.parametrize(
    ("said", "want"),
    [
        ({"state": "finished", "step": 9, "last": {"x": 0.5}}, ("finished", 9, 0.5)),
        ({"state": "stopped", "reason": "pruned", "step": 4, "last": {"x": 2}}, ("pruned", 4, 2.0)),
        ({"state": "stopped", "reason": "SIGTERM", "step": 4}, ("", 4, None)),
        ({"state": "running", "step": 4}, ("", 4, None)),
        ({"state": "failed", "step": 1, "last": {"x": "nan"}}, ("failed", 1, None)),
        ("half", ("", 0, None)),
    ],
)
def test_how_a_run_folder_says_its_trial_ended(tmp_path: Path, said: Any, want: Any) -> None:
    (tmp_path / "status.json").write_text(json.dumps(said))
    found = folder.outcome(tmp_path, "x")
    score = None if found.score != found.score else found.score
    assert (found.state, found.step, score) == want
