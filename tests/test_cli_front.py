import argparse
import errno
import os
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import aigc_jax
from aigc_jax.cli import front, main
from aigc_jax.errors import StorageError, UserError

REPOSITORY = Path(__file__).resolve().parent.parent
RECIPE = "configs/lm/shakespeare_char.py"
HEAVY = ("jax", "jaxlib", "flax", "optax", "orbax", "numpy", "matplotlib", "rich", "tensorflow")

Run = Callable[[argparse.Namespace], int]
Runner = Callable[..., tuple[int, str, str]]


@pytest.fixture
def aigc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Runner:
    """Runs `aigc` with two made-up commands: `teach CONFIG` and `look-at get|list RUN`."""
    for name in ("teach", "look_at", "helper"):
        text = "" if name == "helper" else "def add(subparsers):\n    pass\n"
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.setattr(main, "FOLDER", tmp_path)
    calls: list[argparse.Namespace] = []

    def record(args: argparse.Namespace) -> int:
        calls.append(args)
        return 0

    def call(*argv: str, run: Run | None = None) -> tuple[int, str, str]:
        def add_teach(subparsers: Any) -> None:
            parser = subparsers.add_parser("teach", help="teaches")
            front.add_config_arguments(parser)
            parser.add_argument("--workdir")
            parser.set_defaults(run=run or record)

        def add_look_at(subparsers: Any) -> None:
            parser = subparsers.add_parser("look-at", help="looks")
            inner = parser.add_subparsers(metavar="WHAT", required=True)
            for what in ("get", "list"):
                leaf = inner.add_parser(what)
                leaf.add_argument("folder", metavar="RUN")
                leaf.add_argument("--prompt")
                leaf.add_argument("--every", type=int)
                leaf.set_defaults(run=run or record)

        for name, add in (("teach", add_teach), ("look_at", add_look_at)):
            module = types.ModuleType(name)
            vars(module)["add"] = add
            monkeypatch.setitem(sys.modules, f"aigc_jax.cli.{name}", module)
        code = main.main(argv)
        out, err = capsys.readouterr()
        return code, out, err

    vars(call)["calls"] = calls
    return call


def called(aigc: Runner) -> argparse.Namespace:
    found: argparse.Namespace = vars(aigc)["calls"][-1]
    return found


@pytest.mark.parametrize(
    ("words", "overrides"),
    [
        (["--config.run.steps=5"], ["--config.run.steps=5"]),
        (["--config.run.steps", "5"], ["--config.run.steps=5"]),
        (["--config.hyper.lr", "-1e-3"], ["--config.hyper.lr=-1e-3"]),
        (["--config.data.path=a=b"], ["--config.data.path=a=b"]),
        (["--config.data.path="], ["--config.data.path="]),
        (["--workdir", "w", "--config.a.b=1"], ["--config.a.b=1"]),
        ([], []),
    ],
)
@pytest.mark.parametrize("config_first", [True, False])
def test_settings_reach_the_command_wherever_they_stand(
    aigc: Runner, words: list[str], overrides: list[str], config_first: bool
) -> None:
    argv = ["x.py", *words] if config_first else [*words, "x.py"]
    assert aigc("teach", *argv) == (0, "", "")
    assert called(aigc).config == "x.py" and called(aigc).overrides == overrides


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("teech x.py", "there is no command 'teech'. Did you mean 'teach'?"),
        ("xyz", "There are: look-at, teach"),
        ("teach", "required: CONFIG; see `aigc teach --help`"),
        ("teach x.py --worksdir=d", "--worksdir=d is not understood. Did you mean '--workdir'?"),
        ("teach x.py --worksdir d", "--worksdir is not understood. Did you mean '--workdir'?"),
        ("teach --worksdir d x.py", "--worksdir is not understood. Did you mean '--workdir'?"),
        ("teach x.py --work=d", "--work=d is not understood. Did you mean '--workdir'?"),
        ("teach x.py y.py", "y.py is not understood. See `aigc --help`"),
        ("teach x.py --zzz", "--zzz is not understood"),
        ("teach x.py --workdir", "--workdir: expected one argument"),
        ("--workdir=d teach x.py", "--workdir=d stands too early"),
        ("teach x.py run.steps=5", "write --config.run.steps=5"),
        ("teach run.steps=5", "write --config.run.steps=5"),
        ("teach x.py config.run.steps=5", "write --config.run.steps=5"),
        ("teach x.py -config.run.steps=5", "write --config.run.steps=5"),
        ("teach x.py -run.steps=5", "write --config.run.steps=5"),
        ("teach x.py --config.run.debug", "(=true or =false for a switch)"),
        ("teach --config.run.debug --workdir=d x.py", "(=true or =false for a switch)"),
        ("teach --config=x.py", "the recipe has no flag"),
        ("teach --config x.py", "the recipe has no flag"),
        ("look-at get r --config.run.steps=5", "`aigc look-at` takes no settings of a config"),
        ("--config.run.steps=5", "`aigc` takes no settings"),
        ("look-at gett r", "invalid choice: 'gett'"),
        ("look-at gett r", "Did you mean 'get'?"),
        ("look-at get r --every=x", "invalid int value: 'x'"),
        ("look-at get r --promt=x", "Did you mean '--prompt'?"),
        ("--verson", "Did you mean '--version'?"),
    ],
)
def test_a_slip_is_answered_in_one_line(aigc: Runner, argv: str, said: str) -> None:
    code, out, err = aigc(*argv.split())
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert err.startswith("aigc: ") and said in err
    assert not vars(aigc)["calls"]


def test_what_looks_like_a_setting_is_left_alone_where_none_is_taken(aigc: Runner) -> None:
    assert aigc("look-at", "get", "r", "--prompt", "run.steps=5") == (0, "", "")
    assert called(aigc).prompt == "run.steps=5"


def test_help_lists_the_commands_and_version_says_the_version(aigc: Runner) -> None:
    for argv in ([], ["--help"], ["-h"]):
        code, out, err = aigc(*argv)
        assert (code, err) == (0, "") and "teaches" in out and "looks" in out
    assert aigc("--version") == (0, f"aigc {aigc_jax.__version__}\n", "")
    code, out, _ = aigc("teach", "--help")
    assert code == 0 and "CONFIG" in out and "--config.SECTION.NAME=VALUE" in out


def raising(error: BaseException) -> Run:
    def run(args: argparse.Namespace) -> int:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UserError("no such text"), 2, "aigc: no such text\n"),
        (StorageError("the disk is full"), 4, "aigc: the disk is full\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "r/x"),
            4,
            "No space left on device at r/x",
        ),
        (OSError(errno.EROFS, "Read-only file system"), 4, "aigc: Read-only file system; nothing"),
        (KeyboardInterrupt(), 130, "aigc: interrupted\n"),
    ],
)
def test_exit_codes(aigc: Runner, error: BaseException, code: int, said: str) -> None:
    got, out, err = aigc("teach", "x.py", run=raising(error))
    assert (got, out) == (code, "") and said in err and err.count("\n") == 1


def test_a_commands_own_code_comes_through_and_a_bug_is_a_traceback(aigc: Runner) -> None:
    assert aigc("teach", "x.py", run=lambda args: 75)[0] == 75
    for error in (KeyError("x"), OSError(errno.ENOENT, "no such file")):
        with pytest.raises(type(error)):
            aigc("teach", "x.py", run=raising(error))


def typed(*argv: str, cwd: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
    """Runs the real command line, which says on stdout what heavy modules it has imported."""
    code = (
        "import sys; from aigc_jax.cli.main import main; code = main(sys.argv[1:]);"
        f"print(sorted(set({HEAVY}) & set(sys.modules))); sys.exit(code)"
    )
    env = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        [sys.executable, "-c", code, *argv],
        capture_output=True, text=True, check=False, cwd=cwd, env=env,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["train", RECIPE, "--config.optim.lr=0.1"], "Did you mean 'hyper.lr'?"),
        (["train", RECIPE, "--config.run.steps=many"], "expected int"),
        (["train", RECIPE, "--config.task.model.name=transfomer"], "Did you mean 'transformer'?"),
        (["train", "configs/lm/shakespear_char.py"], f"Did you mean '{RECIPE}'?"),
        (["train", RECIPE, "--wrokdir=x"], "Did you mean '--workdir'?"),
        (["trian", RECIPE], "Did you mean 'train'?"),
    ],
)
def test_a_typo_is_answered_before_anything_heavy_is_imported(argv: list[str], said: str) -> None:
    began = time.perf_counter()
    done = typed(*argv)
    seconds = time.perf_counter() - began
    assert done.returncode == 2, done.stderr
    assert said in done.stderr and done.stderr.count("\n") == 1
    assert done.stdout == "[]\n", f"imported: {done.stdout}"
    # 0.3 s on an idle machine; the bound is for a busy one, and still below what JAX alone takes.
    assert seconds < 2.5


def test_the_real_help_is_light_too() -> None:
    done = typed("--help")
    assert done.returncode == 0 and done.stdout.endswith("[]\n"), done.stdout + done.stderr
    for name in main.commands():
        assert f"\n    {name}" in done.stdout


def test_a_reader_that_has_gone_is_no_error() -> None:
    env = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    # Unbuffered, argparse itself would meet the closed pipe, and it says nothing of it.
    env.pop("PYTHONUNBUFFERED", None)
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "aigc_jax.cli.main", "--help"],
            stdout=closed, stderr=subprocess.PIPE, text=True, check=False, cwd=REPOSITORY, env=env,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (141, "")
