"""What a run writes: metrics.jsonl through kills and full disks, status.json, the progress line."""

import errno
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import textwrap
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aigc_jax.errors import StorageError, UserError
from aigc_jax.train import log, storage
from aigc_jax.train.log import MetricsLog, Status, rewind
from aigc_jax.train.progress import Progress, field


def open_log(folder: Path, keep_to: int | None = None, **other: Any) -> MetricsLog:
    settings = {"tensorboard": False, "wandb": False, "config": {}, "run_name": "x"}
    return MetricsLog(folder, keep_to=keep_to, **(settings | other))


def rows(folder: Path) -> list[dict[str, Any]]:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not strict JSON")

    text = (folder / "metrics.jsonl").read_text(encoding="utf-8")
    assert text == "" or text.endswith("\n")
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def write_both(folder: Path, steps: range) -> None:
    with open_log(folder) as written:
        for step in steps:
            written.write(step, {"train/loss": 1 / step, "speed/tokens_per_s": 5}, step * 0.5)
            written.write(step, {"validation/loss": 2 / step}, step * 0.5)


def test_rows_are_strict_json_with_every_digit(tmp_path: Path) -> None:
    with open_log(tmp_path) as written:
        written.write(
            np.int32(3),
            {"train/loss": np.float32(0.1), "a": float("nan"), "b": -np.inf, "n": np.int64(7)},
            1.25,
        )
    assert rows(tmp_path) == [
        {"step": 3, "wall": 1.25, "train/loss": float(np.float32(0.1)), "a": "nan", "b": "-inf",
         "n": 7}
    ]  # fmt: skip


def test_a_row_can_be_read_before_the_log_is_closed(tmp_path: Path) -> None:
    with open_log(tmp_path) as written:
        written.write(1, {"train/loss": 1.0}, 0.0)
        assert len(rows(tmp_path)) == 1


def test_resume_drops_later_rows_and_goes_on(tmp_path: Path) -> None:
    write_both(tmp_path, range(1, 6))
    with open_log(tmp_path, keep_to=3) as written:
        assert written.dropped == 4
        written.write(4, {"train/loss": 9.0}, 2.0)
    found = [(row["step"], "validation/loss" in row) for row in rows(tmp_path)]
    assert found == [
        (1, False),
        (1, True),
        (2, False),
        (2, True),
        (3, False),
        (3, True),
        (4, False),
    ]


def test_an_evaluation_that_will_be_redone_appears_once(tmp_path: Path) -> None:
    write_both(tmp_path, range(1, 4))
    with open_log(tmp_path, keep_to=3, keep_evaluation=False) as written:
        written.write(3, {"validation/loss": 0.5}, 1.5)
    at_three = [row for row in rows(tmp_path) if row["step"] == 3]
    assert [row.get("validation/loss") for row in at_three] == [None, 0.5]
    assert at_three[0]["train/loss"] == pytest.approx(1 / 3)


def test_a_row_of_both_kinds_keeps_what_the_loop_wrote(tmp_path: Path) -> None:
    with open_log(tmp_path) as written:
        written.write(3, {"train/loss": 1.0, "validation/loss": 2.0}, 0.0)
    assert rewind(tmp_path / "metrics.jsonl", 3, keep_evaluation=False) == 1
    assert rows(tmp_path) == [{"step": 3, "wall": 0.0, "train/loss": 1.0}]


def test_a_fresh_start_keeps_no_row_of_a_run_that_never_saved(tmp_path: Path) -> None:
    write_both(tmp_path, range(1, 3))
    open_log(tmp_path, keep_to=None).close()
    assert rows(tmp_path) == []


@pytest.mark.parametrize("torn", ['{"step": 3, "wa', '{"step": 3}', "\0\0\0\0", '"text"'])
def test_a_torn_last_line_is_mended(tmp_path: Path, torn: str) -> None:
    write_both(tmp_path, range(1, 3))
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write(torn)
    with open_log(tmp_path, keep_to=5) as written:
        written.write(6, {"train/loss": 1.0}, 0.0)
    steps = [row["step"] for row in rows(tmp_path)]
    assert steps == ([1, 1, 2, 2, 3, 6] if torn.endswith("}") else [1, 1, 2, 2, 6])


def test_a_killed_writer_leaves_whole_rows(tmp_path: Path) -> None:
    program = """
        import sys
        from pathlib import Path
        from aigc_jax.train.log import MetricsLog
        written = MetricsLog(Path(sys.argv[1]), keep_to=None, tensorboard=False, wandb=False,
                             config={}, run_name="x")
        step = 0
        while True:
            step += 1
            written.write(step, {"train/loss": 1.0, "train/lr": 1e-3}, 0.0)
            if step == 500:
                print("well under way", flush=True)
    """
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)],
        stdout=subprocess.PIPE,
        cwd=Path(log.__file__).parents[2],
    )
    assert child.stdout is not None
    child.stdout.readline()
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    steps = [row["step"] for row in rows(tmp_path)]
    assert len(steps) >= 500
    assert steps == list(range(1, len(steps) + 1))


def test_a_disk_that_fills_up_leaves_whole_rows(tmp_path: Path) -> None:
    """The limit on a file's size tears a row in two, as a full disk does."""
    program = """
        import resource, signal, sys
        from pathlib import Path
        from aigc_jax.errors import StorageError
        from aigc_jax.train.log import MetricsLog
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        written = MetricsLog(Path(sys.argv[1]), keep_to=None, tensorboard=False, wandb=False,
                             config={}, run_name="x")
        try:
            for step in range(1000):
                written.write(step, {"train/loss": 1.0}, 0.0)
        except StorageError as error:
            sys.exit(error.exit_code)
    """
    code = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)],
        cwd=Path(log.__file__).parents[2],
    ).returncode
    assert code == 4
    assert [row["step"] for row in rows(tmp_path)] == list(range(len(rows(tmp_path))))
    assert len(rows(tmp_path)) > 10


def test_a_disk_full_while_rewinding_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_both(tmp_path, range(1, 4))
    before = (tmp_path / "metrics.jsonl").read_bytes()

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(storage.os, "fsync", full)
    with pytest.raises(StorageError, match=r"metrics\.jsonl.*disk is full"):
        rewind(tmp_path / "metrics.jsonl", 1)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, "disk is full"),
        (errno.EDQUOT, "disk is full"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "no permission"),
        (errno.ENOENT, "gone"),
    ],
)
def test_storage_errors_are_told_as_such(code: int, words: str) -> None:
    with pytest.raises(StorageError, match=words) as caught, storage.storage_errors("RUN"):
        raise OSError(code, os.strerror(code))
    assert caught.value.exit_code == 4
    assert "RUN" in str(caught.value) and "\n" not in str(caught.value)


def test_a_full_disk_is_known_from_the_words_of_another_library() -> None:
    with pytest.raises(StorageError, match="full"), storage.storage_errors("RUN"):
        try:
            raise ValueError("RESOURCE_EXHAUSTED: write: No space left on device [os_error='28']")
        except ValueError as error:
            raise RuntimeError("background save failed") from error


@pytest.mark.parametrize(
    "error", [KeyError("x"), OSError(errno.EINVAL, "x"), UserError("x"), KeyboardInterrupt()]
)
def test_other_errors_pass_unchanged(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, storage.storage_errors("RUN"):
        raise error
    assert caught.value is error


def test_the_innermost_place_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(StorageError, match="write inner"),
        storage.storage_errors("outer"),
        storage.storage_errors("inner"),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_status_is_replaced_whole_and_keeps_what_was_said(tmp_path: Path) -> None:
    status = Status(tmp_path)
    status.write("running", step=1, command=["aigc", "train"])
    status.write("finished", step=2, last={"train/loss": float("inf")})
    found = json.loads((tmp_path / "status.json").read_text())
    assert found["state"] == "finished" and found["step"] == 2
    assert found["command"] == ["aigc", "train"]
    assert found["last"] == {"train/loss": "inf"}
    assert found["pid"] == os.getpid()
    assert [item.name for item in tmp_path.iterdir()] == ["status.json"]


def test_status_remembers_all_starts_and_what_ended_each(tmp_path: Path) -> None:
    for step, last_words in ((0, ("stopped", "SIGTERM", 7)), (7, None), (5, ("finished", "", 9))):
        status = Status(tmp_path)
        status.start(step)
        status.write("running", step=step, reason="")
        if last_words:
            status.write(last_words[0], reason=last_words[1], step=last_words[2])
    starts = json.loads((tmp_path / "status.json").read_text())["starts"]
    assert [start["from step"] for start in starts] == [0, 7, 5]
    assert [start.get("after") for start in starts] == [
        None,
        "stopped (SIGTERM) at step 7",
        "died at step 7",
    ]


def events(folder: Path) -> list[Any]:
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for file in sorted(folder.glob("tb/events*"), key=lambda item: item.stat().st_mtime_ns):
        content, at = file.read_bytes(), 0
        while at < len(content):
            (size,) = struct.unpack_from("<Q", content, at)
            found.append(Event.FromString(content[at + 12 : at + 12 + size]))
            at += 16 + size
    return found


def test_tensorboard_gets_the_numbers_and_hides_redone_steps(tmp_path: Path) -> None:
    with open_log(tmp_path, tensorboard=True, config={"a": (1, None)}) as written:
        written.write(4, {"train/loss": 0.25, "train/bad": float("nan")}, 1.0)
        written.text(4, "sample", "To be\n<or not>")
    values = {v.tag: (e.step, v.simple_value) for e in events(tmp_path) for v in e.summary.value}
    assert values["train/loss"] == (4, 0.25)
    assert "train/bad" not in values
    assert {"sample/text_summary", "config/text_summary"} <= set(values)
    for file in (tmp_path / "tb").iterdir():
        file.unlink()
    open_log(tmp_path, keep_to=4, tensorboard=True).close()
    assert [e.step for e in events(tmp_path) if e.HasField("session_log")] == [5]


@pytest.mark.parametrize(("package", "knob"), [("wandb", "wandb"), ("tensorboardX", "tensorboard")])
def test_a_missing_logger_is_named_with_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, knob: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"pip install .*{package}.*--config\.run\.{knob}=False"):
        open_log(tmp_path, **{knob: True})


def test_wandb_resumes_one_run_by_the_id_in_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[dict[str, Any]] = []
    logged: list[dict[str, Any]] = []

    class FakeRun:
        def define_metric(self, name: str, step_metric: str) -> None:
            assert (name, step_metric) == ("*", "step")

        def log(self, row: dict[str, Any]) -> None:
            logged.append(row)

        def finish(self) -> None:
            logged.append({"finished": True})

    def init(**settings: Any) -> FakeRun:
        started.append(settings)
        return FakeRun()

    fake = types.SimpleNamespace(init=init, Html=lambda text: text)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # nobody's login
    for key in (None, "secret"):
        if key:
            monkeypatch.setenv("WANDB_API_KEY", key)
        with open_log(tmp_path, wandb=True, config={"cut": float("inf")}) as written:
            written.write(2, {"train/loss": 1.0}, 0.5)
            written.text(2, "sample", "a<b")
    assert started[0]["id"] == started[1]["id"] == (tmp_path / "wandb_id").read_text().strip()
    assert [s["mode"] for s in started] == ["offline", "online"]
    assert [s["resume"] for s in started] == [None, "allow"]
    assert started[0]["config"] == {"cut": "inf"}
    assert logged[:3] == [
        {"step": 2, "wall": 0.5, "train/loss": 1.0},
        {"step": 2, "sample": "<pre>a&lt;b</pre>"},
        {"finished": True},
    ]


def test_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    fields = {"loss": 2.10341, "grad": 0.8111, "lr": 9.8e-4, "tokens/s": 152_300, "mfu": 0.1123}
    with Progress(2000, 0, plain=True) as progress:
        progress.doing("compiling")
        progress.note("compiled in 3 s [ok]")
        progress.advance(100)
        progress.update(250, fields, 0.024)
    assert capsys.readouterr().out.splitlines() == [
        "compiled in 3 s [ok]",
        "step 250/2000  loss 2.1034  grad 0.81  lr 9.8e-04  152k tokens/s  mfu 11 %  eta 0:42",
    ]


def test_eta_follows_the_time_of_a_step_alone() -> None:
    progress = Progress(1000, 400, plain=True)
    assert progress.eta is None
    progress.update(400, {}, float("nan"))
    assert progress.eta is None
    progress.update(500, {}, 0.5)
    assert progress.eta == pytest.approx(250)
    progress.update(900, {}, 0.1)  # after many steps the new speed counts almost alone
    assert progress.eta == pytest.approx(10, rel=0.1)
    progress.update(1000, {}, 0.1)
    assert progress.eta == 0


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("loss", float("nan"), "loss nan"),
        ("loss", 1e-5, "loss 1e-05"),
        ("tokens/s", 999_960, "1M tokens/s"),
        ("images/s", 0.25, "0.25 images/s"),
        ("mfu", 0.004, "mfu 0.4 %"),
        ("phase", "warm-up", "phase warm-up"),
    ],
)
def test_field(name: str, value: Any, words: str) -> None:
    assert field(name, value) == words


def on_a_terminal(program: str) -> tuple[int, str]:
    """Runs a program on a terminal of its own; returns its exit code and what it showed."""
    main, side = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        stdout=side,
        stderr=side,
        cwd=Path(log.__file__).parents[2],
        env=os.environ | {"TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(side)
    shown = b""
    while True:
        ready, _, _ = select.select([main], [], [], 60)
        try:
            piece = os.read(main, 65536) if ready else b""
        except OSError:  # the other side is closed
            piece = b""
        if not piece:
            break
        shown += piece
    os.close(main)
    return child.wait(timeout=60), shown.decode()


def test_the_bar_gives_the_terminal_back_even_on_an_error() -> None:
    code, shown = on_a_terminal("""
        from aigc_jax.train.progress import Progress
        with Progress(100, 0) as progress:
            progress.note("[bold]as it is[/bold]")
            progress.update(50, {"loss": 2.5, "grad": 1.0}, 0.1)
            progress._bar.refresh()
            raise SystemExit(7)
    """)
    assert code == 7
    assert "[bold]as it is[/bold]" in shown
    assert "50/100" in shown and "loss 2.5000" in shown and "eta 0:05" in shown
    assert "grad" not in shown  # no room on 100 columns
    hidden, visible = shown.rfind("\x1b[?25l"), shown.rfind("\x1b[?25h")
    assert -1 < hidden < visible
