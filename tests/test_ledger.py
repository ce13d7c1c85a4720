"""The compile ledger: what compiled, why, how long, and what the cache saved."""

import json
import logging
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from aigc_jax.core.compiles import reason, sentence
from aigc_jax.report import compiles
from aigc_jax.report.folder import Run
from aigc_jax.train import ledger as ledgers
from aigc_jax.train.ledger import Ledger


class Clock:
    """A run's step, and the warnings that came."""

    def __init__(self) -> None:
        self.step = 0
        self.warnings: list[str] = []

    def ledger(self) -> Ledger:
        return Ledger(lambda: self.step, self.warnings.append)


def named(rows: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [row for row in rows if row["name"] == name]


def test_a_recompile_after_warm_up_says_which_shape_changed() -> None:
    clock = Clock()

    @jax.jit
    def double(x: jax.Array, y: jax.Array) -> jax.Array:
        return 2 * x + y.sum()

    def call(rows: int) -> None:
        double(np.ones((rows, 3), np.float32), np.ones(4, np.float32))

    with clock.ledger() as ledger:
        call(5)
        call(5)
        clock.step = 7
        call(5)
        assert clock.warnings == []
        call(6)
    first, again = named(ledger.rows, "double")
    assert (first["step"], first["why"], first["again"]) == (0, "first", False)
    assert first["arrays"] == ["float32[5,3]", "float32[4]"]
    assert min(first["trace_s"], first["lower_s"], first["compile_s"]) > 0
    assert first["by"].startswith("test_ledger.py:")
    assert (again["step"], again["again"]) == (7, True)
    assert again["why"] == "array 0 is float32[6,3], before float32[5,3]"
    (line,) = clock.warnings
    assert line.startswith(f"step 7: double at {again['by']} was compiled once more, ")
    assert line.endswith(": array 0 is float32[6,3], before float32[5,3]")
    assert "1 again after warm-up: double" in ledger.sentence()


def test_shapes_that_are_there_from_the_start_are_no_warning() -> None:
    clock = Clock()

    @jax.jit
    def half(x: jax.Array) -> jax.Array:
        return x / 2

    with clock.ledger() as ledger:
        for rows in (5, 6):
            half(np.ones(rows, np.float32))
    assert [row["again"] for row in named(ledger.rows, "half")] == [False, False]
    assert clock.warnings == []


def test_a_function_made_anew_is_told_as_such() -> None:
    clock = Clock()
    with clock.ledger() as ledger:
        for clock.step in (0, 1):
            jax.jit(lambda x: x * 3)(np.ones(2, np.float32))
    again = ledger.rows[-1]
    assert again["why"].startswith("the same shapes: a static argument, or the function itself")
    assert len(clock.warnings) == 1


def test_warnings_end_after_a_few_and_the_rows_do_not() -> None:
    clock = Clock()

    @jax.jit
    def third(x: jax.Array) -> jax.Array:
        return x / 3

    with clock.ledger() as ledger:
        for clock.step in range(8):
            third(np.ones(clock.step + 1, np.float32))
    assert len(named(ledger.rows, "third")) == 8
    assert len(clock.warnings) == ledgers._MOST == 5
    assert clock.warnings[-1].endswith("(the last warning; more are in compiles.jsonl)")


def test_a_program_from_the_cache_is_told_with_what_that_saved() -> None:
    def grown(x: jax.Array) -> jax.Array:
        for i in range(30):
            x = jnp.sin(x) + i
        return x

    rows = []
    for _ in range(2):
        jax.clear_caches()
        with Clock().ledger() as ledger:
            jax.jit(grown)(np.ones(13, np.float32))
        rows += named(ledger.rows, "grown")
    assert [row["cache"] for row in rows] == ["miss", "hit"]
    assert rows[0]["saved_s"] == 0
    # The cache remembers whole seconds, so for so small a program nothing was saved.
    assert rows[1]["saved_s"] < 0
    assert "1 of them from the cache, which saved" in ledger.sentence()


def test_ahead_of_time_compilation_is_seen_and_a_lowering_alone_is_not() -> None:
    @jax.jit
    def ahead(x: jax.Array) -> jax.Array:
        return x - 1

    with Clock().ledger() as ledger:
        lowered = ahead.lower(jax.ShapeDtypeStruct((3,), jnp.float32))
        assert named(ledger.rows, "ahead") == []
        lowered.compile()
    (row,) = named(ledger.rows, "ahead")
    assert row["arrays"] == ["float32[3]"]


def test_nobody_else_sees_the_log_line_and_all_is_undone_at_the_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    logger = logging.getLogger(ledgers._LOGGER)
    level, filters = logger.level, list(logger.filters)
    with Clock().ledger() as ledger:
        jax.jit(lambda x: x + 41)(np.ones(3, np.float32))
        assert caplog.records == []
        count = len(ledger.rows)
        assert count > 0
    assert (logger.level, logger.filters) == (level, filters)
    jax.jit(lambda x: x + 42)(np.ones(3, np.float32))
    assert len(ledger.rows) == count
    with Clock().ledger(), jax.log_compiles():
        jax.jit(lambda x: x + 43)(np.ones(3, np.float32))
    assert any("Compiling jit(<lambda>)" in record.getMessage() for record in caplog.records)


def test_why_in_words() -> None:
    def row(*arrays: str, placement: str = "") -> dict[str, Any]:
        return {"arrays": arrays, "placement": placement}

    assert reason(None, row("a")) == "first"
    assert reason(row("a"), row("a", "b")) == "2 arrays, before 1"
    many = reason(row("a", "b", "c", "d", "e"), row("A", "b", "C", "D", "E"))
    assert many.startswith("array 0 is A, before a, array 2 is C, before c, array 3 is D, before d")
    assert many.endswith(" and 1 more")
    moved = reason(row("a", placement="1"), row("a", placement="2"))
    assert moved == "the same shapes, placed on the devices in another way"
    assert sentence([]) == ""


# --- in a run --------------------------------------------------------------------------------


def test_a_run_writes_its_ledger_over_all_its_starts(tmp_path: Path, capsys: Any) -> None:
    toy.loop(tmp_path, steps=8, save_every=4).run()
    out = capsys.readouterr().out
    run = Run(tmp_path)
    rows = compiles.rows(run)
    assert "several" in {row["name"] for row in rows}
    (program,) = named(rows, "several")
    assert program["by"].startswith("aigc_jax/train/program.py:")
    assert (program["step"], program["start"]) == (0, 1)
    assert not any(row["again"] for row in rows)
    assert compiles.summary(run) in out
    jax.clear_caches()
    from aigc_jax.train import program as programs

    programs._programs.clear()
    toy.loop(tmp_path, steps=12, save_every=4).run()
    more = compiles.rows(run)
    assert more[: len(rows)] == rows
    assert {row["start"] for row in more[len(rows) :]} == {2}
    assert named(more, "several")[-1]["step"] == 8
    chosen = compiles.dearest(run, 1)
    assert len(chosen) == 1
    assert chosen[0][0] == max(more, key=compiles.seconds)["name"]
    with open(tmp_path / "compiles.jsonl", "a") as file:
        file.write('{"name": "half a li')
    assert compiles.rows(run) == more


def test_a_start_that_fails_early_writes_no_ledger(tmp_path: Path) -> None:
    def fail() -> None:
        raise RuntimeError("the data are gone")

    with pytest.raises(RuntimeError):
        toy.loop(tmp_path, more={"opened": fail}).run()
    assert not (tmp_path / "compiles.jsonl").exists()


def test_an_evaluator_that_changes_its_shapes_is_warned_of(tmp_path: Path, capsys: Any) -> None:
    @jax.jit
    def judge(x: jax.Array) -> jax.Array:
        return x.mean()

    def evaluate(weights: Any, step: int) -> dict[str, float]:
        return {"validation/loss": float(judge(np.ones(3 + step, np.float32)))}

    toy.loop(tmp_path, steps=4, eval_every=2, evaluators={"v": evaluate}).run()
    said = capsys.readouterr()
    assert said.err.count("aigc: warning: step") == 2
    assert "step 2: judge at test_ledger.py:" in said.err
    assert "array 0 is float32[5], before float32[3]" in said.err
    assert "2 again after warm-up: judge" in said.out
    lines = (tmp_path / "compiles.jsonl").read_text().splitlines()
    rows = named([json.loads(line) for line in lines], "judge")
    assert [row["step"] for row in rows] == [0, 2, 4]
