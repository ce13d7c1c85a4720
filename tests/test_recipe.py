import sys
from pathlib import Path

import house
import pytest

from aigc_jax.core import recipe
from aigc_jax.errors import UserError

IMPORT = "from ml_collections import ConfigDict\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    house.write(tmp_path, {"configs/lm/small.py": house.RECIPE, "configs/gan/dcgan.py": ""})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def complaint(text: str | None = None, spec: str = "configs/x.py") -> str:
    if text is not None:
        house.write(Path(), {"configs/x.py": text})
    with pytest.raises(UserError) as caught:
        recipe.read(spec)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_recipe_gives_a_plain_dict_and_its_short_name(folder: Path) -> None:
    cfg, label = recipe.read(str(folder / "configs/lm/small.py"))
    assert label == "configs/lm/small.py"
    assert cfg["task"] == {"name": "lm", "model": {"name": "gpt", "width": 16}}
    assert type(cfg["task"]) is dict


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("configs/lm/smal.py", "isn't there. Did you mean 'configs/lm/small.py'?"),
        ("configs/lm/small", "isn't there. Did you mean 'configs/lm/small.py'?"),
        ("small.py", "Did you mean 'configs/lm/small.py'?"),
        ("somewhere/else/entirely/smal.py", "Did you mean 'configs/lm/small.py'?"),
        ("configs/smal.py", "Did you mean 'configs/lm/small.py'?"),
        ("lm/small:a", "Did you mean 'configs/lm/small.py'?"),
        ("qqqqqqqq", "there are: configs/gan/dcgan.py, configs/lm/small.py"),
        ("configs/gan", "is a folder"),
    ],
)
def test_a_wrong_path_is_answered_with_the_nearest(spec: str, said: str) -> None:
    assert said in complaint(spec=spec)


def test_another_kind_of_file_is_no_recipe(folder: Path) -> None:
    (folder / "config.json").write_text("{}", encoding="utf-8")
    assert "config 'config.json' is no recipe" in complaint(spec="config.json")


def test_nothing_near_and_no_recipes_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    assert complaint(spec="x.py").endswith("expected a Python file with get_config")


def test_an_argument_after_the_colon() -> None:
    text = IMPORT + "def get_config(arg=None):\n    return ConfigDict({'arg': arg})\n"
    house.write(Path(), {"configs/x.py": text})
    assert recipe.read("configs/x.py")[0] == {"arg": None}
    assert recipe.read("configs/x.py:big")[0] == {"arg": "big"}


def test_an_argument_that_is_not_taken_or_is_missing() -> None:
    none = IMPORT + "def get_config():\n    return ConfigDict()\n"
    assert "takes no argument, and 'big' was given" in complaint(none, "configs/x.py:big")
    must = IMPORT + "def get_config(arg):\n    return ConfigDict()\n"
    assert "write configs/x.py:ARG" in complaint(must)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def get_config():\n    a = 1\n    return a / 0\n", "configs/x.py:3: ZeroDivisionError"),
        ("\nimport no_such_thing\n", "configs/x.py:2: ModuleNotFoundError: No module named"),
        ("x = 1\ndef get_config(:\n", "configs/x.py:2: SyntaxError: "),
        ("def get_config():\n  x = 1\n    y = 2\n", "configs/x.py:3: IndentationError: "),
        ("import sys\ndef get_config():\n    sys.exit('no')\n", "configs/x.py:3: SystemExit: no"),
        ("def get_config():\n    raise ValueError('a\\nb')\n", "configs/x.py:2: ValueError: a b"),
        ("def get_config():\n    raise ValueError\n", "configs/x.py:2: ValueError (in"),
        (
            "def get_config(arg=None):\n    return f()\ndef f():\n    raise KeyError('k')\n",
            "x.py:4",
        ),
        (
            IMPORT + "def get_config():\n    c = ConfigDict()\n    return c.lr\n",
            "configs/x.py:4: AttributeError",
        ),
        (
            "from aigc_jax.errors import UserError\n\nraise UserError('mine')\n",
            "configs/x.py:3: UserError: mine (in your config)",
        ),
    ],
)
def test_an_exception_in_a_recipe_is_shown_as_the_users(text: str, said: str) -> None:
    message = complaint(text)
    assert said in message and message.endswith("(in your config)")


def test_a_recipe_must_define_get_config_and_return_a_config() -> None:
    assert "configs/x.py is no recipe: it defines no get_config" in complaint("get_confg = 1\n")
    returned = complaint("def get_config():\n    return {'task': 1}\n")
    assert "get_config returns dict; expected an ml_collections.ConfigDict" in returned


def test_a_file_that_is_not_text() -> None:
    Path("configs/x.py").write_bytes(b"\xff\xfe\x00bad")
    message = complaint(spec="configs/x.py")
    # Python before 3.11.4 calls a null byte a ValueError.
    assert message.startswith(("configs/x.py: SyntaxError: ", "configs/x.py: ValueError: source"))
    assert message.endswith("(in your config)")


def test_recipes_import_each_other_and_a_second_load_sees_the_change(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    base = IMPORT + "def get_config():\n    return ConfigDict({'steps': 1})\n"
    house.write(folder, {"configs/lm/base.py": base})
    house.write(folder, {"configs/x.py": "from configs.lm.base import get_config\n"})
    path_before = list(sys.path)
    assert recipe.read("configs/x.py")[0] == {"steps": 1}
    # As many bytes, within the same second: a .pyc by time and size would be taken for fresh.
    changed = "from configs.lm.base import get_config as g\ndef get_config():\n    c = g()\n"
    house.write(folder, {"configs/x.py": changed + "    c.steps = 2\n    return c\n"})
    assert recipe.read("configs/x.py")[0] == {"steps": 2}
    house.write(folder, {"configs/x.py": changed + "    c.steps = 3\n    return c\n"})
    assert recipe.read("configs/x.py")[0] == {"steps": 3}
    assert sys.path == path_before
    assert not [name for name in sys.modules if name.split(".")[0] == "configs"]


def test_two_projects_have_each_their_own_configs(tmp_path: Path) -> None:
    for name in ("one", "two"):
        base = f"{IMPORT}def get_config():\n    return ConfigDict({{'who': '{name}'}})\n"
        folder = tmp_path / name / "configs"
        house.write(folder, {"base.py": base, "x.py": "from configs.base import get_config\n"})
    for name in ("one", "two", "one"):
        assert recipe.read(str(tmp_path / name / "configs/x.py"))[0] == {"who": name}


def test_a_recipe_outside_of_configs_imports_its_neighbour(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    base = IMPORT + "def get_config():\n    return ConfigDict({'a': 1 / 1})\n"
    house.write(elsewhere, {"base_of_x.py": base, "x.py": "from base_of_x import get_config\n"})
    assert recipe.read(str(elsewhere / "x.py"))[0] == {"a": 1.0}
    assert "base_of_x" not in sys.modules


def test_the_line_is_the_imported_recipes_own(folder: Path) -> None:
    house.write(folder, {"configs/lm/base.py": "def get_config():\n    return 1 / 0\n"})
    message = complaint("from configs.lm import base\ndef get_config():\n    base.get_config()\n")
    assert message.startswith("configs/lm/base.py:2: ZeroDivisionError")
