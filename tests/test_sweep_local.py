"""The local engine: its study, its workers, and what is left when processes die."""

import io
import json
import math
import os
import signal
import sqlite3
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import optuna
import process
import pytest
import toy

from aigc_jax.cli import launch, train, wire
from aigc_jax.core import config
from aigc_jax.errors import StorageError, UserError
from aigc_jax.sweep import asked, board, folder, local, plans, search, trials, worker
from aigc_jax.sweep.plans import Planned
from aigc_jax.sweep.space import Algebra as h
from aigc_jax.sweep.space import Space

METRIC = "validation_first_3/loss"
FINISHED = SimpleNamespace(kind="finished", reason="")
HOST = "here"


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every test in a folder of its own, with a recipe."""
    process.recipe(tmp_path, samples=False)
    monkeypatch.chdir(tmp_path)


# --- one worker in this process, with a stand-in for training ------------------------------------


def claimed(space: Space, root: Path = Path("root"), direction: str = "minimize") -> Path:
    folder.claim(root, folder.Sweep("recipe.py", [], space.to_dict(), METRIC, direction))
    return root


def listed(space: Space, root: Path = Path("root"), **knobs: Any) -> list[Planned]:
    """Makes the sweep folder of a list, with its study."""
    planned = plans.plan("recipe.py", [], space.points(), claimed(space, root))
    local.prepare(root, planned, **knobs)
    return planned


class Fake:
    """Trains in no time: `score` of the config at steps 4, 8 and 12; writes status.json."""

    def __init__(self, score: Callable[[dict[str, Any]], float]) -> None:
        self.score, self.seen = score, list[tuple[str, float]]()

    def __call__(self, run: Planned, signals: Any, told: Any) -> Any:
        self.seen.append((run.id, run.config["hyper"]["lr"]))
        run.workdir.mkdir(exist_ok=True)
        (run.workdir / "config.json").write_text(config.to_json(run.config))
        value = self.score(run.config)
        said = {"state": "finished", "reason": "", "steps": 12}
        for step in (0, 4, 8, 12):
            told(step, {METRIC: value})
            said |= {"step": step, "last": {METRIC: repr(value)}}
            if signals.asked:
                said |= {"state": "stopped", "reason": signals.asked}
                break
        (run.workdir / "status.json").write_text(json.dumps(said))
        return SimpleNamespace(kind=said["state"], reason=said["reason"], last={METRIC: value})


def lr(cfg: Mapping[str, Any]) -> float:
    return float(cfg["hyper"]["lr"])


def known(root: Path = Path("root")) -> list[Any]:
    return list(trials.latest(trials.study_of(root, check=False)).values())


def states(root: Path = Path("root")) -> list[str]:
    return [trial.state.name for trial in known(root)]


def test_a_list_is_run_in_its_order_and_not_again() -> None:
    planned = listed(h.grid("hyper.lr", [0.3, 0.1, 0.2]))
    fake = Fake(lr)
    assert worker.Worker(Path("root"), fake).run() == 0
    assert [run for run, _ in fake.seen] == [trial.id for trial in planned]
    assert [trial.value for trial in known()] == [0.3, 0.1, 0.2]
    best = board.best_of(known(), "minimize")
    assert best is not None and best.value == 0.1
    assert board.name_of(best) == planned[1].workdir.name
    local.prepare(Path("root"), planned)
    again = Fake(lr)
    assert worker.Worker(Path("root"), again).run() == 0
    assert again.seen == []
    with sqlite3.connect("root/study.db") as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)


@pytest.mark.parametrize("lost", ["study.db", "run", "both"])
def test_what_is_lost_is_done_again_and_no_more(lost: str) -> None:
    planned = listed(h.grid("hyper.lr", [0.3, 0.1, 0.2]))
    worker.Worker(Path("root"), Fake(lr)).run()
    if lost in ("study.db", "both"):
        for path in Path("root").glob("study.db*"):
            path.unlink()
    if lost in ("run", "both"):
        (planned[1].workdir / "status.json").unlink()
    local.prepare(Path("root"), planned)
    fake = Fake(lr)
    worker.Worker(Path("root"), fake).run()
    assert [run for run, _ in fake.seen] == ([] if lost == "study.db" else [planned[1].id])
    assert sorted(trial.value for trial in known()) == [0.1, 0.2, 0.3]


def test_a_longer_list_adds_to_the_first() -> None:
    space = h.grid("hyper.lr", [0.1, 0.2])
    planned = listed(space)
    worker.Worker(Path("root"), Fake(lr)).run()
    more = plans.plan("recipe.py", [], [{"hyper.lr": 0.4}], Path("root"))
    local.prepare(Path("root"), [*planned, *more])
    fake = Fake(lr)
    worker.Worker(Path("root"), fake).run()
    assert [run for run, _ in fake.seen] == [more[0].id]


def broken(cfg: Mapping[str, Any]) -> float:
    if cfg["hyper"]["lr"] == 0.2:
        raise UserError("no such thing")
    if cfg["hyper"]["lr"] == 0.3:
        raise ZeroDivisionError("a bug")
    return math.nan if cfg["hyper"]["lr"] == 0.4 else lr(cfg)


def test_a_failed_trial_is_marked_with_its_line_and_the_others_go_on(
    capfd: pytest.CaptureFixture[str],
) -> None:
    planned = listed(h.grid("hyper.lr", [0.1, 0.2, 0.3, 0.4, 0.5]))
    assert worker.Worker(Path("root"), Fake(broken)).run() == launch.FAILED
    assert states() == ["COMPLETE", "FAIL", "FAIL", "FAIL", "COMPLETE"]
    lines = [board.said_of(trial, METRIC) for trial in known()]
    assert lines[1].endswith("failed: no such thing")
    assert lines[2].endswith("failed: ZeroDivisionError: a bug")
    assert lines[3].endswith(f"{METRIC} is nan")
    assert "Traceback" in capfd.readouterr().err, "a bug is shown whole"
    # The same command tries them once more.
    local.prepare(Path("root"), planned)
    fake = Fake(lr)
    assert worker.Worker(Path("root"), fake).run() == launch.FAILED
    assert [rate for _, rate in fake.seen] == [0.2, 0.3], "what ended with a nan has ended"
    assert states() == ["COMPLETE"] * 3 + ["FAIL", "COMPLETE"]


def test_a_metric_that_nobody_gives_stops_the_sweep_with_the_nearest_one() -> None:
    folder.claim(
        Path("root"), folder.Sweep("recipe.py", [], {}, "validation_first/los", "minimize")
    )
    planned = plans.plan("recipe.py", [], [{"hyper.lr": 0.1}, {"hyper.lr": 0.2}], Path("root"))
    local.prepare(Path("root"), planned)
    fake = Fake(lr)
    with pytest.raises(worker.NoMetricError, match=f"Did you mean '{METRIC}'"):
        worker.Worker(Path("root"), fake).run()
    assert len(fake.seen) == 1
    assert sorted(states()) == ["WAITING", "WAITING"], "nothing is lost"


def test_a_metric_of_the_last_step_alone_is_waited_for() -> None:
    """Evaluators that judge samples say beforehand what they will give, in protocols.json."""
    folder.claim(Path("root"), folder.Sweep("recipe.py", [], {}, "modes/found", "maximize"))
    planned = plans.plan("recipe.py", [], [{"hyper.lr": 0.1}], Path("root"))
    local.prepare(Path("root"), planned)

    class Late(Fake):
        def __call__(self, run: Any, signals: Any, told: Any) -> Any:
            run.workdir.mkdir(parents=True, exist_ok=True)
            (run.workdir / "config.json").write_text("{}")
            (run.workdir / "protocols.json").write_text('{"modes/found": {}}')
            told(1, {METRIC: 1.0})
            outcome = super().__call__(run, signals, lambda step, scores: None)
            outcome.last["modes/found"] = 8.0
            return outcome

    assert worker.Worker(Path("root"), Late(lr)).run() == 0
    assert states() == ["COMPLETE"]


def test_a_full_disk_stops_the_worker_and_the_trial_waits() -> None:
    listed(h.grid("hyper.lr", [0.1, 0.2]))

    def full(cfg: Mapping[str, Any]) -> float:
        raise StorageError("can't write x: the disk is full")

    with pytest.raises(StorageError, match="the disk is full"):
        worker.Worker(Path("root"), Fake(full)).run()
    assert states() == ["WAITING", "WAITING"]


def test_a_pruner_stops_the_losers_and_they_stay_stopped() -> None:
    rates = [0.1, 0.1, 0.1, 0.1, 0.5, 0.05]
    space = h.zip(h.grid("hyper.lr", rates), h.grid("run.seed", range(6)))
    planned = listed(space, pruner="median")
    worker.Worker(Path("root"), Fake(lr)).run()
    assert states() == ["COMPLETE"] * 4 + ["PRUNED", "COMPLETE"]
    assert toy.status(planned[4].workdir)["reason"] == "pruned"
    assert known()[4].intermediate_values == {4: 0.5}, "step 0 says nothing"
    for path in Path("root").glob("study.db*"):
        path.unlink()
    local.prepare(Path("root"), planned, pruner="median")
    assert states() == ["COMPLETE"] * 4 + ["PRUNED", "COMPLETE"], "the run folders speak"


@pytest.mark.parametrize("name", ["median", "hyperband", "asha"])
def test_every_pruner_cuts_a_clear_loser(name: str) -> None:
    space = h.grid("hyper.lr", [0.1 + 0.001 * i for i in range(8)] + [9.0, 9.1, 9.2])
    listed(space, pruner=name)
    worker.Worker(Path("root"), Fake(lr)).run()
    assert "PRUNED" in states()[8:]
    assert states()[0] == "COMPLETE"


def drawn(root: Path = Path("root"), number: int = 6, **knobs: Any) -> Path:
    space = h.product(
        h.draw("hyper.lr", h.Float(1e-4, 1e-1, log=True)),
        h.draw("task.model.heads", h.Choice(1, 2)),
        h.draw("run.batch_size", h.Int(2, 8)),
    )
    claimed(space, root)
    local.prepare(root, None, number=number, **knobs)
    return root


@pytest.mark.parametrize("name", ["tpe", "qmc", "random", "cmaes"])
def test_a_search_goes_on_with_the_points_it_would_have_had(name: str) -> None:
    whole = Fake(lr)
    worker.Worker(drawn(Path("whole"), 6, sampler=name), whole).run()
    rates = [rate for _, rate in whole.seen]
    assert len({*rates}) == 6
    assert all(1e-4 <= rate <= 1e-1 for rate in rates)
    first = Fake(lr)
    worker.Worker(drawn(Path("parts"), 4, sampler=name), first).run()
    rest = Fake(lr)
    worker.Worker(drawn(Path("parts"), 6, sampler=name), rest).run()
    assert [rate for _, rate in first.seen + rest.seen] == rates
    # Without its study the folders tell what was drawn.
    for path in Path("whole").glob("study.db*"):
        path.unlink()
    none = Fake(lr)
    worker.Worker(drawn(Path("whole"), 6, sampler=name), none).run()
    assert none.seen == []
    assert sorted(t.params["hyper.lr"] for t in known(Path("whole"))) == sorted(rates)


def test_cmaes_is_one_search_though_each_trial_has_a_new_sampler() -> None:
    """Its state is in the study: the later points come nearer, numbers of both kinds."""
    study = optuna.create_study()
    draws = {"a": h.Float(1e-4, 1e-1, log=True), "b": h.Int(1, 64), "c": h.Choice(1, 2)}
    scores = []
    for number in range(40):
        study.sampler = trials.sampler("cmaes", number)
        trial = study.ask()
        point = trials.suggest(trial, draws)
        assert isinstance(point["b"], int) and 1 <= point["b"] <= 64 and point["c"] in (1, 2)
        score = (math.log10(point["a"]) + 2.5) ** 2 + ((point["b"] - 20) / 20) ** 2
        study.tell(trial, score)
        scores.append(score)
    assert sum(scores[-10:]) < 0.5 * sum(scores[:10])
    generations = [t.system_attrs.get("cma:generation", 0) for t in study.trials]
    assert generations[-1] >= 4, "it learnt nothing"


@pytest.mark.parametrize(
    ("name", "kind"), [("tpe", "TPESampler"), ("qmc", "QMCSampler"), ("random", "RandomSampler")]
)
def test_a_sampler_by_name(name: str, kind: str) -> None:
    assert type(trials.sampler(name, 0)).__name__ == kind


def test_each_point_of_a_search_with_several_seeds() -> None:
    space = h.product(h.draw("hyper.lr", h.Float(0.1, 1.0)), h.grid("run.seed", range(3)))
    claimed(space)
    local.prepare(Path("root"), None, number=2)
    fake = Fake(lambda cfg: cfg["hyper"]["lr"] + cfg["run"]["seed"])
    worker.Worker(Path("root"), fake).run()
    assert len(fake.seen) == 6
    for trial in known():
        assert trial.value == pytest.approx(trial.params["hyper.lr"] + 1.0)
        assert len(trial.user_attrs["runs"]) == 3
        assert board.name_of(trial).endswith("and 2 more")


def test_a_signal_leaves_the_trial_waiting_with_its_point() -> None:
    root = drawn(number=2)

    class Stopped(Fake):
        def __call__(self, run: Planned, signals: Any, told: Any) -> Any:
            signals.saves = True
            os.kill(os.getpid(), signal.SIGTERM)
            return super().__call__(run, signals, told)

    first = Stopped(lr)
    assert worker.Worker(root, first).run() == worker.STOPPED
    assert len(first.seen) == 1
    assert states() == ["WAITING", "WAITING"]
    local.prepare(root, None, number=2)
    fake = Fake(lr)
    worker.Worker(root, fake).run()
    assert sorted(fake.seen)[0] in fake.seen
    assert first.seen[0] in fake.seen, "the same point goes on"
    assert len(fake.seen) == 2


# --- what dead processes leave -------------------------------------------------------------------


def take(root: Path, name: str | None) -> optuna.Trial:
    """Takes a trial as a worker does that is killed right after."""
    taken = trials.study_of(root, beats=False, check=False).ask()
    if name:
        taken.set_user_attr("worker", name)
    return taken


def test_a_dead_workers_trial_is_begun_again_a_few_times() -> None:
    planned = listed(h.grid("hyper.lr", [0.1]))
    study = trials.study_of(Path("root"), check=False)
    for turn in range(trials.RETRIES + 1):
        take(Path("root"), f"{HOST}:77")
        assert trials.rescue(study, Path("root"), [f"{HOST}:77"], HOST) == [], "it is alive"
        assert trials.rescue(study, Path("root"), [], "elsewhere") == [], (
            "not to be seen from there"
        )
        assert len(trials.rescue(study, Path("root"), [f"{HOST}:78"], HOST)) == 1
        assert states() == (["WAITING"] if turn < trials.RETRIES else ["FAIL"])
    assert "died again and again" in board.said_of(known()[0], METRIC)
    local.prepare(Path("root"), planned)
    assert states() == ["WAITING"], "who starts the command again means it"


def test_a_trial_that_died_before_it_said_whose_it_is_is_begun_again() -> None:
    listed(h.grid("hyper.lr", [0.1]))
    take(Path("root"), None)
    study = trials.study_of(Path("root"), check=False)
    assert len(trials.rescue(study, Path("root"), [f"{HOST}:1"], HOST)) == 1
    assert states() == ["WAITING"]


def test_a_heart_that_stops_gives_its_trial_to_the_next_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    planned = listed(h.grid("hyper.lr", [0.1, 0.2]))
    dead = take(Path("root"), "elsewhere:5")
    with sqlite3.connect("root/study.db") as database:
        database.execute(
            "INSERT INTO trial_heartbeats (trial_id, heartbeat) VALUES (?, '2020-01-01 00:00:00')",
            (dead._trial_id,),
        )
    database.close()
    fake = Fake(lr)
    worker.Worker(Path("root"), fake).run()
    assert {run for run, _ in fake.seen} == {trial.id for trial in planned}
    assert states() == ["COMPLETE", "COMPLETE"]


def test_a_folder_in_use_is_left_to_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    planned = listed(h.grid("hyper.lr", [0.1, 0.2]))
    waits: list[float] = []
    held = train.taken(planned[0].workdir)

    def wait(seconds: float) -> None:
        waits.append(seconds)
        held.__exit__()

    monkeypatch.setattr(worker.time, "sleep", wait)
    fake = Fake(lr)
    assert worker.Worker(Path("root"), fake).run() == 0
    assert waits == [1.0]
    assert [run for run, _ in fake.seen] == [planned[1].id, planned[0].id]


def test_a_changed_recipe_is_told() -> None:
    listed(h.grid("hyper.lr", [0.1]))
    text = Path("recipe.py").read_text()
    Path("recipe.py").write_text(text.replace('"steps": 12', '"steps": 13'))
    assert worker.Worker(Path("root"), Fake(lr)).run() == launch.FAILED
    assert "gives another config now" in board.said_of(known()[0], METRIC)


# --- bad databases, missing packages --------------------------------------------------------------


def test_a_database_of_another_version_is_told() -> None:
    planned = listed(h.grid("hyper.lr", [0.1]))
    with sqlite3.connect("root/study.db") as database:
        database.execute("UPDATE alembic_version SET version_num = 'v99.0.0.a'")
        database.execute("UPDATE version_info SET library_version = '9.9.9'")
    database.close()
    with pytest.raises(UserError, match="by another version of Optuna") as caught:
        local.prepare(Path("root"), planned)
    assert str(caught.value).count("\n") == 0


def test_a_database_that_is_none_is_told() -> None:
    planned = listed(h.grid("hyper.lr", [0.1]))
    for path in Path("root").glob("study.db-*"):
        path.unlink()
    Path("root/study.db").write_text("nonsense " * 100)
    with pytest.raises(UserError, match="damaged"):
        local.prepare(Path("root"), planned)


def test_a_database_on_a_full_disk_is_told() -> None:
    study = trials.study_of(claimed(h.grid("hyper.lr", [0.1])))
    with sqlite3.connect("root/study.db") as database:
        pages = database.execute("PRAGMA page_count").fetchone()[0]
    database.close()
    engine = study._storage._backend.engine  # type: ignore[attr-defined]
    with engine.connect() as connection:
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
    with (
        pytest.raises(StorageError, match="the disk is full"),
        trials.database_errors(Path("root")),
    ):
        for i in range(1000):
            study.set_user_attr(f"long{i}", "x" * 2000)


@pytest.mark.parametrize(
    ("engine", "package", "extra"),
    [("local", "optuna", "sweep"), ("ray", "ray", "ray"), ("slurm", "submitit", "slurm")],
)
def test_an_engine_that_is_not_installed_names_its_extra(
    monkeypatch: pytest.MonkeyPatch, engine: str, package: str, extra: str
) -> None:
    monkeypatch.delitem(sys.modules, package, raising=False)
    real = launch.importlib.util.find_spec
    monkeypatch.setattr(
        launch.importlib.util, "find_spec", lambda name: None if name == package else real(name)
    )
    with pytest.raises(UserError, match=rf"aigc-jax\[{extra}\]"):
        launch.check_engine(engine)


def test_a_sampler_that_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs the package cmaes.*'aigc-jax\[sweep\]'"):
        trials.sampler("cmaes", 0)


# --- places --------------------------------------------------------------------------------------


def test_one_accelerator_each() -> None:
    gpus = local.devices({"CUDA_VISIBLE_DEVICES": "2,5"})
    assert [local.environment(i, 2, {}, gpus) for i in range(2)] == [
        {"CUDA_VISIBLE_DEVICES": "2"}, {"CUDA_VISIBLE_DEVICES": "5"},
    ]  # fmt: skip
    shared = [local.environment(i, 4, {}, gpus) for i in range(4)]
    assert [own["CUDA_VISIBLE_DEVICES"] for own in shared] == ["2", "5", "2", "5"]
    assert {own["XLA_PYTHON_CLIENT_MEM_FRACTION"] for own in shared} == {"0.450"}
    chips = local.devices({"TPU_VISIBLE_CHIPS": "0,1,2,3"})
    own = local.environment(3, 4, {}, chips)
    assert (own["TPU_VISIBLE_CHIPS"], own["TPU_PROCESS_BOUNDS"]) == ("3", "1,1,1")
    assert local.environment(0, 1, {}, gpus) == {}, "one worker has them all"
    assert local.devices({"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "0"}) == []


@pytest.mark.parametrize(
    ("workers", "cores", "want"),
    [
        (2, [0, 1], [[0], [1]]),
        (2, [0, 1, 2, 3, 4], [[0, 1], [2, 3, 4]]),
        (3, [4, 7], [[4], [7], [4]]),
        (1, [0, 1], [[]]),
    ],
)
def test_workers_share_the_cores(workers: int, cores: list[int], want: list[list[int]]) -> None:
    assert [local.cores_of(i, workers, cores) for i in range(workers)] == want


def test_a_search_for_another_engine() -> None:
    root = claimed(h.draw("hyper.lr", h.Float(1e-4, 1e-1, log=True)))
    source = asked.Asked(root, number=3, sampler="tpe")
    runs = []
    while (run := source.ask()) is not None:
        runs.append(run)
        source.report(run, 4, 1.0)
        source.report(run, 4, 2.0)
        source.tell(run, ["finished", "pruned", "failed"][len(runs) - 1], 0.5)
    assert len({run.id for run in runs}) == 3
    assert states(root) == ["COMPLETE", "PRUNED", "FAIL"]
    assert known(root)[0].intermediate_values == {4: 1.0}
    assert asked.Asked(root, number=3, sampler="tpe").ask().id == runs[2].id  # type: ignore[union-attr]
    seeds = h.product(h.draw("hyper.lr", h.Float(0, 1)), h.grid("run.seed", [1, 2]))
    with pytest.raises(UserError, match="would run 2 times"):
        asked.Asked(claimed(seeds, Path("seeds")), number=3, sampler="tpe")


def test_the_table_and_its_lines() -> None:
    from rich.console import Console

    planned = listed(h.grid("hyper.lr", [0.1, 0.2, 0.3]))
    take(Path("root"), f"{HOST}:1")
    planned[0].workdir.mkdir()
    said = {"state": "running", "step": 4, "steps": 12, "last": {METRIC: 2.5}}
    (planned[0].workdir / "status.json").write_text(json.dumps(said))
    lines: list[str] = []
    shown = board.Board(Path("root"), folder.read(Path("root")), lines.append, live=False)
    shown.show(known(), ["a"])
    text = io.StringIO()
    Console(width=200, file=text).print(shown._table(known(), 1))
    assert all(word in text.getvalue() for word in ("4/12", "2.5000", "running"))
    assert shown.eta(known()) is None
    long = "lr=0.00046342505832948827,heads=1-fc268ce2"
    assert board._short(long) == "lr=0.000463425,heads=1-fc268ce2"
    trials.study_of(Path("root"), check=False).tell(0, 0.25)
    shown.show(known(), ["a"])
    assert lines[-1].startswith("[1/3] lr=0.1-")
    assert f"finished, {METRIC} 0.2500" in lines[-1]
    assert shown.eta(known()) is not None
    # Two that end between two looks are counted one by one, in the order of their ends.
    for _ in range(2):
        take(Path("root"), f"{HOST}:1")
    for number, score in ((2, 0.3), (1, 0.2)):
        trials.study_of(Path("root"), check=False).tell(number, score)
    shown.show(known(), ["a"])
    assert [line.partition(" ")[0] for line in lines[-2:]] == ["[2/3]", "[3/3]"]
    assert lines[-2].endswith("0.3000 (0:00)"), lines


# --- compiled once -------------------------------------------------------------------------------


def test_trials_that_differ_in_numbers_compile_once_a_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(train.wire, "start_jax", lambda: None)
    planned = listed(h.zip(h.grid("hyper.lr", [0.1, 0.2, 0.2]), h.grid("run.seed", [0, 0, 1])))
    shelf, compiled = wire.Shelf(), []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, seconds, **_: compiled.append(name) if "backend_compile" in name else None
    )
    counts = []

    def one(run: Planned, signals: Any, told: Any) -> Any:
        before = len(compiled)
        done = train.one(
            run.config, run.workdir, signals=signals, command=run.command, told=told,
            parts=shelf.parts,
        )  # fmt: skip
        counts.append(len(compiled) - before)
        return done

    assert worker.Worker(Path("root"), one).run() == 0
    assert counts[0] > 0
    assert counts[1:] == [0, 0]
    # As anyone can read it in the run folders: the first one's ledger has all that compiled.
    ledgers = [run.workdir / "compiles.jsonl" for run in planned]
    lines = [path.read_text().splitlines() if path.exists() else [] for path in ledgers]
    assert len(lines[0]) > 0 and lines[1:] == [[], []]
    # Each is what it would have been alone.
    assert len({trial.value for trial in known()}) == 3
    with worker.Signals(saves=False) as signals:
        train.one(planned[2].config, Path("alone"), signals=signals, command="aigc train x")
    assert toy.rows(Path("alone")) == toy.rows(planned[2].workdir)
    said = toy.status(planned[2].workdir)
    assert said["command"][:2] == ["aigc", "train"]
    assert "--config.run.seed=1" in said["command"]


# --- real processes ------------------------------------------------------------------------------


def stub(monkeypatch: pytest.MonkeyPatch, code: str) -> list[Planned]:
    """Two trials, and workers that do nothing but this."""
    monkeypatch.setattr(local, "PROGRAM", (sys.executable, "-S", "-c", code))
    folder.claim(Path("root"), folder.Sweep("recipe.py", [], {}, METRIC, "minimize"))
    return plans.plan("recipe.py", [], [{"hyper.lr": 0.1}, {"hyper.lr": 0.2}], Path("root"))


def test_a_worker_that_met_a_full_disk_ends_the_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    planned = stub(monkeypatch, "raise SystemExit(4)")
    with pytest.raises(StorageError, match="nothing saved is lost"):
        local.run(Path("root"), planned, workers=2)
    assert states() == ["WAITING", "WAITING"]


def test_a_mistake_in_all_trials_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import sys; print('aigc: no metric x', file=sys.stderr); sys.exit(2)"
    planned = stub(monkeypatch, code)
    with pytest.raises(UserError, match=r"^no metric x$"):
        local.run(Path("root"), planned, workers=1)


def test_workers_that_die_at_their_start_are_not_started_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    planned = stub(monkeypatch, "import os; os.kill(os.getpid(), 9)")
    with pytest.raises(UserError, match=r"at their start \(signal 9\); see root/logs/worker-0"):
        local.run(Path("root"), planned, workers=1)


def test_one_driver_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    planned = stub(monkeypatch, "")
    with train.taken(Path("root")), pytest.raises(UserError, match="root is in use by process"):
        local.run(Path("root"), planned, workers=1)


SWEEP = """

def get_sweep(h):
    return h.chain(h.grid("hyper.lr", [0.01, 0.02, 0.03]), h.grid("task.accumulate", [3]))
"""
# Workers that wait after a save while the file "hold" is there, until they are asked to stop.
SLOW = """
import os, time
from aigc_jax.train.loop import Loop

def held(self):
    save(self)
    self.checkpoints.finish()
    while self.step and os.path.exists("hold") and not self.signals.asked:
        time.sleep(0.01)

save, Loop._save = Loop._save, held
"""
DRIVER = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import forked
forked.install({SLOW!r})
"""


def test_a_sweep_survives_the_death_of_its_worker_of_its_driver_and_a_signal() -> None:
    here, root = Path.cwd(), Path("sweep")
    Path("recipe.py").write_text(Path("recipe.py").read_text() + SWEEP)
    Path("hold").touch()
    words = ("sweep", "recipe.py", "--engine=local", "--workdir=sweep", f"--metric={METRIC}")

    def saved(at: int) -> dict[str, Path]:
        return {p.parent.parent.name: p.parent.parent for p in root.glob(f"*/checkpoints/{at}")}

    # Two workers, each with a trial that has saved; one of them is killed.
    driver = process.Process(*words, "--workers=2", folder=here, first=DRIVER)
    assert driver.until(lambda: len(saved(4)) == 2, 0.05), driver.err
    killed = next(iter(saved(4)))
    os.kill(toy.status(root / killed)["pid"], signal.SIGKILL)
    line = f"a worker died (signal 9) in {killed}; it goes on from its checkpoint"
    assert driver.until(lambda: line in driver.out, 0.05), driver.err
    # Its place is taken, and then the driver is killed: the workers save and end.
    assert driver.until(lambda: len(saved(4)) == 3, 0.05), driver.err
    driver.send(signal.SIGKILL)
    assert driver.end() == -signal.SIGKILL
    others = [path for name, path in saved(4).items() if name != killed]
    idle = process.Process("status", "sweep", folder=here)
    idle.until(lambda: all(toy.status(path)["state"] == "stopped" for path in others))

    # The same command goes on; Ctrl-C saves and says how.
    again = process.Process(*words, folder=here, first=DRIVER)
    runs = [root / killed, *others]

    log = root / "logs" / "worker-0.log"
    assert again.until(lambda: "resumed sweep/" in log.read_text(), 0.05), again.err
    again.send(signal.SIGINT)
    assert again.end() == 75, again.err
    assert "to go on: aigc sweep recipe.py" in again.out
    Path("hold").unlink()
    last = process.aigc(*words, folder=here, first=DRIVER)
    assert last.code == launch.FAILED, last.err
    assert "does not divide the batch of 4" in last.out
    assert "4 trials: 3 finished, 1 failed" in last.out

    # Nothing began anew, and each is what it would have been alone.
    for path in runs:
        starts = [start["from step"] for start in toy.status(path)["starts"]]
        assert starts[0] == 0 and starts[-1] > 0, starts
    trial = toy.status(root / killed)["command"]
    alone = process.aigc("train", *trial[2:-1], "--workdir=alone", folder=here)
    assert alone.code == 0, alone.err
    assert toy.rows(Path("alone")) == toy.rows(root / killed)
    assert "died at step" in toy.status(root / killed)["starts"][1]["after"]
    rows = (root / "results.csv").read_text().splitlines()
    assert len([row for row in rows if ",finished," in row]) == 3
