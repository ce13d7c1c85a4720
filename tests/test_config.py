import json
import math
from pathlib import Path
from typing import Any

import house
import pytest
from ml_collections import ConfigDict

from aigc_jax.core import config, schema, values
from aigc_jax.errors import UserError

RECIPE = "configs/lm/small.py"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    house.write(tmp_path / "rooms", house.FILES)
    house.write(tmp_path, {RECIPE: house.RECIPE})
    monkeypatch.setattr(schema, "ROOT", tmp_path / "rooms")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def complaint(*overrides: str, recipe: str | None = None, spec: str = RECIPE) -> str:
    if recipe is not None:
        Path(RECIPE).write_text(recipe, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        config.load(spec, overrides)
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.exit_code == 2
    return message


def recipe_with(**sections: Any) -> str:
    """The text of the small recipe, with sections put in whole."""
    base: dict[str, Any] = {
        "task": {"name": "lm", "model": {"name": "gpt"}},
        "data": {"name": "text"},
    }
    text = repr(base | sections)
    return (
        f"from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict({text})"
    )


def test_load_fills_in_every_default() -> None:
    assert config.load(RECIPE).to_dict() == {
        "task": {
            "name": "lm",
            "smoothing": 0.0,
            "kind": "causal",
            "model": {
                "name": "gpt",
                "width": 16,
                "dropout": 0.0,
                "bias": False,
                "dims": (1, 2),
                "window": None,
                "cutoff": 1e9,
            },
        },
        "optim": {"name": "adamw", "rules": ((".*", {"lr": 1.0}),)},
        "hyper": {"lr": 1.0, "decay": 0.0, "z_loss": 0.0},
        "data": {"name": "text", "path": "plays", "documents": None},
        "evals": {"loss": {"name": "mean", "split": "validation"}},
        "run": {"steps": 2000, "batch_size": 12, "seed": 0, "debug": False},
        "mesh": {"axes": {"data": -1}, "precision": "float32"},
        "init_from": {},
    }


def test_load_gives_a_locked_config_with_values_of_their_annotated_type() -> None:
    cfg = config.load(RECIPE)
    assert isinstance(cfg, ConfigDict) and cfg.is_locked
    assert type(cfg.hyper.lr) is float and type(cfg.task.model.dropout) is float
    with pytest.raises(AttributeError):
        cfg.run.stpes = 3


def test_two_loads_share_nothing() -> None:
    one, other = config.load(RECIPE), config.load(RECIPE)
    one.mesh.axes["data"] = 7
    assert other.mesh.axes["data"] == config.load(RECIPE).mesh.axes["data"] == -1
    plain = config.load(RECIPE).to_dict()
    del plain["mesh"]
    config.fill(plain)["mesh"]["axes"]["data"] = 7
    assert config.fill(plain)["mesh"]["axes"]["data"] == -1 and "mesh" not in plain


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("run.steps=5", "run.steps", 5),
        ("hyper.lr=1e-3", "hyper.lr", 1e-3),
        ("hyper.lr=3", "hyper.lr", 3.0),
        ("hyper.lr=inf", "hyper.lr", math.inf),
        ("run.debug=true", "run.debug", True),
        ("run.debug=False", "run.debug", False),
        ("data.documents=None", "data.documents", None),
        ("data.documents=lines", "data.documents", "lines"),
        ("data.path=a=b, c", "data.path", "a=b, c"),
        ("data.path=", "data.path", ""),
        ("data.path=12", "data.path", "12"),
        ("task.model.window=4", "task.model.window", 4),
        ("task.model.window=None", "task.model.window", None),
        ("task.model.dims=(3,4)", "task.model.dims", (3, 4)),
        ("task.model.dims=3,4,5", "task.model.dims", (3, 4, 5)),
        ("task.model.dims=3", "task.model.dims", (3,)),
        ("task.model.dims=()", "task.model.dims", ()),
        ("task.kind=masked", "task.kind", "masked"),
        ("mesh.axes.model=2", "mesh.axes", {"data": -1, "model": 2}),
        ("mesh.axes={'x': 4}", "mesh.axes", {"x": 4}),
        ("optim.rules=(('head', {'lr': 2}),)", "optim.rules", (("head", {"lr": 2}),)),
        ("init_from.params/policy=runs/a", "init_from", {"params/policy": "runs/a"}),
    ],
)
def test_overrides_are_read_by_the_annotated_type(override: str, path: str, value: Any) -> None:
    node: Any = config.load(RECIPE, [f"--config.{override}"]).to_dict()
    for part in path.split("."):
        node = node[part]
    assert node == value and type(node) is type(value)


def test_the_last_override_of_a_kind_counts() -> None:
    cfg = config.load(RECIPE, ["--config.run.steps=5", "--config.run.steps=6"])
    assert cfg.run.steps == 6


def test_a_name_decides_which_settings_exist_wherever_it_stands() -> None:
    Path(RECIPE).write_text(recipe_with(), encoding="utf-8")
    cfg = config.load(
        RECIPE, ["--config.task.model.hidden=9", "--config.task.model.name=mlp"]
    ).to_dict()
    assert cfg["task"]["model"] == {"name": "mlp", "hidden": 9, "extra": {}}


def test_a_task_with_two_networks_and_its_own_numbers() -> None:
    Path(RECIPE).write_text(recipe_with(task={"name": "lm"}), encoding="utf-8")
    names = ["task.discriminator.name=mlp", "task.generator.name=gpt", "task.name=gan"]
    cfg = config.load(RECIPE, [f"--config.{name}" for name in names])
    assert cfg.task.generator.width == 8 and cfg.task.discriminator.hidden == 4
    # The task's own default comes before the optimizer's.
    assert cfg.hyper.to_dict() == {"lr": 2e-4, "decay": 0.0, "penalty": 10.0}


def test_an_evaluator_can_be_added_by_name() -> None:
    cfg = config.load(
        RECIPE, ["--config.evals.train.split=train", "--config.evals.train.name=mean"]
    )
    assert cfg.evals.train.split == "train" and cfg.evals.loss.split == "validation"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("--config.optim.lr=0.1", "Did you mean 'hyper.lr'?"),
        ("--config.run.stpes=3", "Did you mean 'run.steps'?"),
        ("--config.task.width=3", "Did you mean 'task.model.width'?"),
        ("--config.model.width=3", "Did you mean 'task.model.width'?"),
        ("--config.steps=3", "Did you mean 'run.steps'?"),
        ("--config.run.zzzzzzz=3", "there are: run.steps, run.batch_size, run.seed, run.debug"),
        ("--config.qqqq=3", "there are: task, optim, hyper, data"),
        ("--config.run=3", "group of settings; set one of run.steps, run.batch_size"),
        ("--config.run.steps.x=3", "'run.steps' is a single value"),
        ("--config.task.spec=3", "there is no such setting"),
        ("--config.data.batch_size=3", "set 'run.batch_size'"),
        ("--config.data.seed=3", "set 'run.seed'"),
        ("--config.optim.steps=3", "set 'run.steps'"),
        ("--config.run.steps=abc", "expected int (a whole number)"),
        ("--config.run.steps=3.5", "expected int (a whole number)"),
        ("--config.run.steps=None", "expected int"),
        ("--config.run.steps=true", "expected int"),
        ("--config.hyper.lr=fast", "expected float"),
        ("--config.run.debug=1", "expected bool (true or false)"),
        ("--config.task.model.dims=1,a", "expected tuple[int, ...], written as (1,2) or 1,2"),
        ("--config.task.kind=maskd", "expected one of: causal, masked. Did you mean 'masked'?"),
        ("--config.mesh.axes.model=two", "expected int (a whole number)"),
        ("--config.mesh.axes=two", "expected dict[str, int], written as {'key': value}"),
        (
            "--config.task.name=lmm",
            "there is no 'lmm' in tasks. Did you mean 'lm'? There are: gan, lm",
        ),
        ("--config.task.model.name=parts", "There are: gpt, mlp"),
        ("--config.task.modle.name=gpt", "Did you mean 'task.model.name'?"),
        ("--config.task.model.inner.name=gpt", "there is no such setting"),
        ("--config.task.model.name=my.lab.gpt", "nor on the Python path"),
        ("--config.task.model.name=../gpt", "nor on the Python path"),
        ("--config.run.debug", "write --config.run.debug=VALUE (=true or =false for a switch)"),
        ("--config.=3", "expected --config.SECTION.NAME=VALUE"),
        ("--config.run..steps=3", "expected --config.SECTION.NAME=VALUE"),
        ("run.steps=3", "expected --config.SECTION.NAME=VALUE"),
    ],
)
def test_a_wrong_override_is_answered_in_one_line(override: str, said: str) -> None:
    message = complaint(override)
    assert message.startswith(override.partition("=")[0])
    assert said in message


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"optimizer": {"lr": 1.0}}, "sets 'optimizer'"),
        (
            {"optim": {"lr": 1.0}},
            "sets 'optim.lr': there is no such setting. Did you mean 'hyper.lr'?",
        ),
        ({"data": {"name": "text", "seed": 1}}, "sets 'data.seed': it follows"),
        ({"run": {"steps": "5"}}, "run.steps is '5'; expected int"),
        ({"run": {"steps": True}}, "run.steps is True; expected int"),
        ({"run": {"debug": 1}}, "run.debug is 1; expected bool"),
        ({"run": 5}, "run is 5; expected a group of settings"),
        ({"evals": {"loss": "mean"}}, "evals.loss is 'mean'; expected a group"),
        ({"evals": {"loss": {}}}, "lacks 'evals.loss.name': one of mean"),
        ({"hyper": {"lrr": 1.0}}, "Did you mean 'hyper.lr'?"),
        ({"task": {"name": "lm"}}, "lacks 'task.model.name': one of gpt, mlp"),
        ({"task": {"name": "lm", "model": {}}}, "lacks 'task.model.name'"),
        ({"task": {"name": "lm", "model": {"name": "gtp"}}}, "task.model.name: there is no 'gtp'"),
        ({"task": {"name": "lm", "spec": 3, "model": {"name": "gpt"}}}, "sets 'task.spec'"),
        ({"task": {"model": {"name": "gpt"}}}, "lacks 'task.name': one of gan, lm"),
        ({"init_from": {"params/x": 3}}, "init_from is {'params/x': 3}; expected dict[str, str]"),
        ({"optim": {"rules": ((".*", {1, 2}),)}}, "expected tuple"),
    ],
)
def test_a_wrong_recipe_is_answered_in_one_line(sections: dict[str, Any], said: str) -> None:
    message = complaint(recipe=recipe_with(**sections))
    assert message.startswith(RECIPE) and said in message


def test_lists_in_a_recipe_become_tuples() -> None:
    model = {"name": "gpt", "dims": [3, 4]}
    rules = [["a", {"lr": [1]}]]
    text = recipe_with(task={"name": "lm", "model": model}, optim={"rules": rules})
    Path(RECIPE).write_text(text, encoding="utf-8")
    cfg = config.load(RECIPE)
    assert cfg.task.model.dims == (3, 4) and cfg.optim.rules == (("a", {"lr": (1,)}),)


def test_settings_of_earlier_versions_have_today_s_names() -> None:
    old = {
        "mesh": {"axes": [["data", -1]], "batch_axes": ["data"], "rules": [[".*", []]]},
        "task": {"name": "lm", "model": {"name": "transformer", "remat": "products"}},
    }
    found = config.from_json(json.dumps(old))
    assert found["mesh"] == {"data": -1, "rules": ()}
    assert found["task"]["model"]["remat"] == "dots_no_batch"
    other = {"mesh": {"axes": [["model", 2]], "rules": []}}
    assert config.from_json(json.dumps(other))["mesh"]["axes"] == (("model", 2),), "refused later"


def test_json_goes_there_and_back() -> None:
    overrides = ["--config.hyper.lr=inf", "--config.optim.rules=(('a.b', {'lr': 2}),)"]
    cfg = config.load(RECIPE, overrides)
    text = config.to_json(cfg)
    assert json.loads(text)["task"]["model"]["dims"] == [1, 2]
    back = config.fill(config.from_json(text))
    config.check(back)
    assert back == cfg.to_dict() and back["hyper"]["lr"] == math.inf
    assert config.digest(back) == config.digest(cfg) == config.digest(config.from_json(text))


@pytest.mark.parametrize("text", ["", "{", "[1]", "3"])
def test_damaged_json_is_the_users_to_know(text: str) -> None:
    with pytest.raises(UserError, match="damaged"):
        config.from_json(text)


def test_the_digest_sees_every_value_and_no_order() -> None:
    cfg = config.load(RECIPE).to_dict()
    assert config.digest(cfg) == config.digest(dict(reversed(cfg.items())))
    changed = config.load(RECIPE, ["--config.task.model.bias=true"])
    assert config.digest(cfg) != config.digest(changed)
    assert len(config.digest(cfg)) == 64


def test_diff_names_what_differs() -> None:
    a = {"run": {"steps": 1, "debug": True, "x": math.nan}, "gone": {"deep": 1}, "t": (1, 2)}
    b = {"run": {"steps": 2, "debug": 1, "x": math.nan}, "new": {}, "t": [1, 2]}
    found = config.diff(a, b)
    assert [(path, str(x), str(y)) for path, x, y in found] == [
        ("gone.deep", "1", "(absent)"),
        ("new", "(absent)", "{}"),
        ("run.debug", "True", "1"),
        ("run.steps", "1", "2"),
    ]
    assert config.diff(a, a) == []


def test_check_wants_a_complete_config() -> None:
    cfg = config.load(RECIPE).to_dict()
    config.check(cfg)
    del cfg["run"]["steps"]
    with pytest.raises(UserError, match=r"saved\.json lacks 'run\.steps'"):
        config.check(cfg, "saved.json")


def test_values_of_any_type_are_what_json_can_hold() -> None:
    assert values.coerce("Any", [1, {"a": [2]}]) == (1, {"a": (2,)})
    # A type of its own comes before one that it can be turned into.
    assert type(values.coerce("float | int", 3)) is int
    assert values.parse("float | str", "x") == "x" and values.parse("str | float", "2") == 2.0
    assert values.parse("tuple[str, int]", "a,1") == ("a", 1)
    for annotation, value in [
        ("Any", object()),
        ("dict", {1: 2}),
        ("tuple[int, str]", (1, 2)),
        ("tuple[int, str]", (1,)),
    ]:
        with pytest.raises(values.Unfit):
            values.coerce(annotation, value)


def test_make_and_build_use_the_named_module(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    house.write(
        folder,
        {
            "mylab/__init__.py": "",
            "mylab/net.py": "def make(n: int, *, k: int = 2):\n    return n, k\n",
        },
    )
    monkeypatch.syspath_prepend(str(folder))
    assert config.maker("models", "mylab.net")(1) == (1, 2)
    assert config.build("models", {"name": "mylab.net", "k": 5}, n=3) == (3, 5)
    with pytest.raises(UserError, match="Did you mean 'gpt'"):
        config.maker("models", "gppt")
    with pytest.raises(UserError, match="there is no 'parts' in models"):
        config.maker("models", "parts")
