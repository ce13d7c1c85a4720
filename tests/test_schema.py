import os
import subprocess
import sys
from pathlib import Path

import house
import pytest

from aigc_jax.core import schema
from aigc_jax.core.layout import FIXED
from aigc_jax.core.schema import Knob
from aigc_jax.errors import UserError


@pytest.fixture
def rooms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    house.write(tmp_path, house.FILES)
    monkeypatch.setattr(schema, "ROOT", tmp_path)
    return tmp_path


def test_names_are_the_modules_that_define_make(rooms: Path) -> None:
    assert schema.names("models") == ["gpt", "mlp"]
    assert schema.names("tasks") == ["gan", "lm"]
    assert schema.names("no_such_room") == []


def test_the_parameters_of_a_function(rooms: Path) -> None:
    assert schema.knobs("tasks", "lm") == {
        "spec": Knob(None, "Any", True),
        "optimizer": Knob(None, "Any", True),
        "model": Knob(None, "dict[str, Any]", True),
        "smoothing": Knob(0.0, "float", False),
        "kind": Knob("causal", "Literal['causal', 'masked']", False),
    }
    # A quoted annotation is the same annotation.
    assert schema.knobs("tasks", "gan")["discriminator"] == Knob(None, "nn.Module", True)
    assert schema.required("tasks", "lm") == ["spec", "optimizer", "model"]


def test_the_fields_of_a_class(rooms: Path) -> None:
    assert schema.knobs("models", "gpt") == {
        "vocab_size": Knob(None, "int", True),
        "width": Knob(8, "int", False),
        "dropout": Knob(0.0, "float", False),
        "bias": Knob(False, "bool", False),
        "dims": Knob((1, 2), "tuple[int, ...]", False),
        "window": Knob(None, "int | None", False),
        "cutoff": Knob(1e9, "float", False),
    }
    assert list(schema.knobs(*FIXED["run"])) == [
        "steps", "batch_size", "seed", "debug",
    ]  # fmt: skip


def test_the_fields_of_a_base_class_in_the_same_file_come_first(rooms: Path) -> None:
    text = "class A(nn.Module):\n    a: int = 1\n    b: int = 2\n"
    house.write(
        rooms, {"models/x.py": text + "class B(A):\n    b: int = 3\n    c: int\nmake = B\n"}
    )
    found = schema.knobs("models", "x")
    assert list(found) == ["a", "b", "c"] and found["b"].default == 3


def test_hyper_is_read_as_floats(rooms: Path) -> None:
    assert schema.hyper("tasks", "gan") == {"penalty": 10.0, "lr": 2e-4}
    assert type(schema.hyper("tasks", "gan")["penalty"]) is float
    assert schema.hyper("core", "optim") == {"lr": 1e-3, "decay": 0.0}
    assert schema.hyper("models", "gpt") == {}


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("def make(*, a: int = 1 + 1): ...", 1, "'a' must be a literal"),
        ("def make(*, a: int = LIMIT): ...", 1, "it is LIMIT"),
        ("def make(\n    *,\n    a: float = math.inf,\n): ...", 3, "it is math.inf"),
        ("def make(*, a=1): ...", 1, "its annotation '' must be made of int"),
        ("def make(*, a: Callable = None): ...", 1, "its annotation 'Callable'"),
        ("def make(*, a: set[int] = ()): ...", 1, "its annotation 'set[int]'"),
        ("def make(*, a: int = 'x'): ...", 1, "its default 'x' isn't one of its own type"),
        ("def make(*, a: int = None): ...", 1, "its default None isn't one of its own type"),
        ("def make(**settings): ...", 1, "named parameters only"),
        ("def make(*args): ...", 1, "named parameters only"),
        ("def make(a, /): ...", 1, "named parameters only"),
        ("class A(elsewhere.B):\n    a: int = 1\nmake = A", 1, "inherits from elsewhere.B"),
        ("class A:\n    a: int = field(default=1)\nmake = A", 2, "'a' must be a literal"),
    ],
)
def test_a_module_that_breaks_the_rules_is_the_developers_error(
    rooms: Path, text: str, line: int, said: str
) -> None:
    house.write(rooms, {"models/bad.py": text})
    with pytest.raises(ValueError) as caught:
        schema.knobs("models", "bad")
    assert not isinstance(caught.value, UserError)
    assert f"bad.py:{line}: " in str(caught.value) and said in str(caught.value)


@pytest.mark.parametrize("text", ["HYPER = [1]", "HYPER = {'a': 'x'}", "HYPER = {'a': True}"])
def test_hyper_holds_numbers_only(rooms: Path, text: str) -> None:
    house.write(rooms, {"tasks/bad.py": text})
    with pytest.raises(ValueError, match=r"bad\.py:1: HYPER is a dict of numbers"):
        schema.hyper("tasks", "bad")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gppt", "there is no 'gppt' in models. Did you mean 'gpt'? There are: gpt, mlp"),
        ("parts", "there is no 'parts' in models. There are: gpt, mlp"),
        ("__init__", "There are: gpt, mlp"),
        ("", "There are: gpt, mlp"),
        ("no.such.module", "nor on the Python path (PYTHONPATH). There are: gpt, mlp"),
        ("gpt.py", "Did you mean 'gpt'?"),
        (".gpt", "Did you mean 'gpt'?"),
        ("../tasks/lm", "nor on the Python path"),
    ],
)
def test_a_wrong_name_is_answered_with_the_right_ones(rooms: Path, name: str, said: str) -> None:
    house.write(rooms, {"models/__init__.py": ""})
    with pytest.raises(UserError) as caught:
        schema.knobs("models", name)
    assert said in str(caught.value)


def test_a_module_of_the_users_own_is_found_and_not_imported(
    rooms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = "raise SystemExit('imported')\ndef make(n: int, *, k: int = 2): ...\n"
    house.write(rooms, {"herlab/__init__.py": "", "herlab/net.py": net})
    monkeypatch.syspath_prepend(str(rooms))
    assert schema.knobs("models", "herlab.net")["k"] == Knob(2, "int", False)
    assert "herlab.net" not in sys.modules
    # What would be the developer's mistake in a module of ours is here the user's.
    for text in ("def make(*, k: int = A): ...", "x = 1", "def make("):
        house.write(rooms, {"herlab/net.py": text + "  # changed"})
        stamp = schema.find("models", "herlab.net").stat().st_mtime_ns + 1_000_000
        os.utime(rooms / "herlab/net.py", ns=(stamp, stamp))
        with pytest.raises(UserError, match=r"'herlab\.net' can't be used as a module of models"):
            schema.knobs("models", "herlab.net")


REAL = """
import dataclasses, importlib, inspect
from aigc_jax.core import schema
from aigc_jax.core.layout import FIXED, SEAMS

def signature(make):
    # A linen module is a dataclass with two fields of its own, which no recipe sets.
    if dataclasses.is_dataclass(make):
        fields = [f for f in dataclasses.fields(make) if f.name not in ("parent", "name")]
        missing = dataclasses.MISSING
        assert all(f.default_factory is missing for f in fields)
        return {f.name: (f.default is missing, f.default) for f in fields}
    empty = inspect.Parameter.empty
    parameters = inspect.signature(make).parameters.values()
    return {p.name: (p.default is empty, p.default) for p in parameters}

rooms = {*SEAMS.values(), "models", "evals"}
modules = [(room, name, "make") for room in sorted(rooms) for name in schema.names(room)]
for room, name, entry in [*modules, *FIXED.values()]:
    module = importlib.import_module(f"aigc_jax.{room}.{name}")
    read = schema.knobs(room, name, entry)
    real = signature(getattr(module, entry))
    assert list(read) == list(real), (room, name, list(read), list(real))
    for key, (required, default) in real.items():
        assert read[key].required == required, (room, name, key)
        assert required or read[key].default == default, (room, name, key, read[key], default)
    assert schema.hyper(room, name) == getattr(module, "HYPER", {}), (room, name)
    print(room, name)
"""


def test_the_schema_of_every_real_module_is_its_signature() -> None:
    done = subprocess.run([sys.executable, "-c", REAL], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    seen = set(done.stdout.splitlines())
    assert {"tasks lm", "models transformer", "data text", "core optim"} <= seen
