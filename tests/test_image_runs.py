"""Image families as a user runs them: killed, resumed, drawn from, encoded; many seeds at once."""

import contextlib
import re
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import process
import pytest
import tiny
import toy
from test_resume import at

from aigc_jax.cli import augment, check_resume, encode, wire
from aigc_jax.cli.main import main
from aigc_jax.core import tree
from aigc_jax.errors import UserError

RUN = (
    "--config.run.steps=8",
    "--config.run.save_every=4",
    "--config.run.eval_every=8",
    "--config.run.log_every=2",
    "--config.run.steps_per_call=2",
    "--config.run.tensorboard=False",
)
# What each family keeps besides parameters must all come back: batch statistics and their average,
# spectral vectors, running means, the augmentation's strength; a codebook.
FAMILIES = {
    "gan": (
        "configs/gan/mnist_dcgan.py",
        "--config.task.augment=ada",
        "--config.hyper.ada_images=100.0",
        "--config.task.penalties=('r1', 'lecam')",
        "--config.task.penalty_every=2",
        "--config.task.model.spectral_norm=True",
        "--config.task.model.norm=False",
    ),
    "vae": ("configs/vae/mnist.py",),
    "vqvae": ("configs/vae/vq_mnist.py",),
}


def words(family: str) -> list[str]:
    recipe, *changes = FAMILIES[family]
    return [recipe, *tiny.words(recipe, *changes, *RUN)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    (folder / "configs").symlink_to(Path(__file__).resolve().parent.parent / "configs")
    return folder


@pytest.fixture(scope="module", params=FAMILIES)
def whole(request: pytest.FixtureRequest, home: Path) -> tuple[str, Path]:
    """A family, and its run that nothing disturbed."""
    done = process.aigc("train", *words(request.param), f"--workdir={request.param}", folder=home)
    assert done.code == 0, done.err
    return request.param, home / request.param


def killed_and_resumed(typed: list[str], folder: Path, home: Path) -> Path:
    """Asserts that a run killed after its first save ends with the bits of `folder`."""
    command = ("train", *typed, f"--workdir={folder.name}-killed")
    # After the save at step 4, at the sixth step.
    dies = at("aigc_jax.train.loop", "Loop._advance", "SIGKILL", nth=4)
    killed = process.aigc(*command, folder=home, first=dies)
    assert killed.code == -signal.SIGKILL
    again = process.aigc(*command, folder=home)
    assert again.code == 0, again.err
    other = home / f"{folder.name}-killed"
    assert len(toy.status(other)["starts"]) == 2
    with contextlib.chdir(home):
        assert check_resume.compare(folder, other) is None
    return other


# Families, and what they keep, that are killed and encoded but not drawn from here.
OTHERS = {
    "helped": ("configs/gan/ring.py:encoder",),
    "assisted": (
        "configs/gan/mnist_mlp.py:encoder",
        "--config.task.auxiliaries=('encoder', 'info', 'frozen_features')",
        "--config.task.categories=(3,)",
        "--config.task.packing=2",
    ),
    "classifier": ("configs/classifier/mnist.py",),
    "normed": (  # batch normalization in both players, several answers, adaptive augmentation
        "configs/gan/mnist_dcgan.py",
        "--config.task.critic_steps=2",
        "--config.task.augment=ada",
        "--config.hyper.ada_images=100.0",
    ),
}


@pytest.fixture(scope="module", params=OTHERS)
def other(request: pytest.FixtureRequest, home: Path) -> tuple[str, list[str], Path]:
    """Its name, what was typed, and the folder of a run that nothing disturbed."""
    recipe, *changes = OTHERS[request.param]
    typed = [recipe, *tiny.words(recipe, *changes, *RUN)]
    done = process.aigc("train", *typed, f"--workdir={request.param}", folder=home)
    assert done.code == 0, done.err
    return request.param, typed, home / request.param


def test_other_families_go_on_bit_for_bit(other: tuple[str, list[str], Path], home: Path) -> None:
    _, typed, folder = other
    killed_and_resumed(typed, folder, home)


# Of a run: what is typed -> what is said.
LACKING = {
    "assisted": {
        "encode --judge --what=pixels": "makes no pixels; it makes features and codes",
        "encode --judge --step=3": "has no checkpoint at step 3; it has 4, 8",
        "encode": "expected --output=FOLDER, --judge or --map=FILE",
        "inpaint --step=3 --output=x.png": "has no checkpoint at step 3; it has 4, 8",
        "augment": "draws no images by class; train one with labels",
    },
    "classifier": {
        "encode --judge --what=codes": "makes no codes; it makes features",
        "inpaint --output=x.png": "makes no pictures of latents",
        "augment": "draws no images by class; train one with labels",
    },
    "helped": {
        "inpaint --output=x.png": "makes no pictures of latents",
    },
}


def test_what_a_run_lacks_is_said_in_one_line(
    other: tuple[str, list[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    name, _, folder = other
    for typed, part in LACKING.get(name, {}).items():
        command, *flags = typed.split()
        run = [f"--with={folder}"] if command == "augment" else [str(folder)]
        recipe = ["configs/classifier/mnist.py"] if command == "augment" else []
        assert main([command, *recipe, *run, *flags]) == 2
        said = capsys.readouterr().err
        assert part in said and said.count("\n") == 1, said


def test_samples_of_other_classes_are_not_mixed_in() -> None:
    facts = {"class_names": ("cat", "dog")}
    arrays = {name: np.zeros((4, *rest)) for name, rest in (("x", (2, 2, 1)), ("label", ()))}
    data: Any = SimpleNamespace(spec=SimpleNamespace(arrays=arrays, facts=facts))
    x, label = np.zeros((6, 2, 2, 1)), np.zeros(6, np.int32)
    assert augment._mixed(data, 0, x, label, ["cat", "dog"], 0.5)
    for names in (["dog", "cat"], ["cat", "dog", "eel"]):
        with pytest.raises(UserError, match="the classifier's are cat, dog"):
            augment._mixed(data, 0, x, label, names, 0.5)


def test_codes_of_data_without_labels_are_not_judged() -> None:
    part = encode._Part(encoded=np.zeros((4, 2)), x=np.zeros((4, 3)))
    with pytest.raises(UserError, match="--judge needs labels, and this data has none"):
        encode._judge({"train": part, "validation": part}, "codes")


def test_an_assisted_game_encodes_its_data(other: tuple[str, list[str], Path], home: Path) -> None:
    name, _, folder = other
    if name not in ("assisted", "helped"):
        return
    done = process.aigc("encode", folder, f"--output={folder / 'codes'}", folder=home)
    assert done.code == 0, done.err
    found = np.load(folder / "codes" / "train.npy")
    assert found.dtype == np.float32 and found.shape[1] == {"assisted": 100, "helped": 2}[name]
    assert found.std(0).min() > 0
    if name == "assisted":
        drawn = {p.stem.partition("-")[2] for p in (folder / "samples").glob("*.png")}
        assert drawn == {"samples", "reconstructions", "traversals", "interpolations"}


def test_a_killed_run_goes_on_bit_for_bit(whole: tuple[str, Path], home: Path) -> None:
    family, folder = whole
    other = killed_and_resumed(words(family), folder, home)
    for picture in (folder / "samples").iterdir():
        assert (other / "samples" / picture.name).read_bytes() == picture.read_bytes()


def test_a_run_draws_pictures_and_reports_them(whole: tuple[str, Path], home: Path) -> None:
    family, folder = whole
    names = {p.stem.partition("-")[2] for p in (folder / "samples").glob("*.png")}
    assert names
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png;base64,") >= len(names)
    out = folder / "drawn.png"
    done = process.aigc("draw", folder, "--number=5", f"--output={out}", folder=home)
    if family == "vqvae":
        assert done.code == 2 and "--prior=RUN" in done.err
        draws_by_a_prior(folder, home)
        return
    assert done.code == 0, done.err
    assert out.read_bytes()[:4] == b"\x89PNG"
    array = out.with_suffix(".npy")
    again = process.aigc("draw", folder, "--number=3", f"--output={array}", folder=home)
    assert again.code == 0, again.err
    assert np.load(array).shape == (3, 8, 8, 1)


def draws_by_a_prior(folder: Path, home: Path) -> None:
    """From a VQ-VAE to pictures of its prior: encode, train a language model, draw."""
    codes, out = folder / "codes", folder / "prior.npy"
    done = process.aigc("encode", folder, f"--output={codes}", folder=home)
    assert done.code == 0, done.err
    recipe = "configs/vae/vq_prior.py"
    small = [*tiny.words(recipe, *RUN), f"--config.data.path={codes}"]
    done = process.aigc("train", recipe, *small, "--workdir=prior", folder=home)
    assert done.code == 0, done.err
    flags = ("--prior=prior", "--number=3", f"--output={out}")
    done = process.aigc("draw", folder, *flags, folder=home)
    assert done.code == 0, done.err
    assert np.load(out).shape == (3, 8, 8, 1)
    wrong = process.aigc("draw", folder, "--prior=gan", f"--output={out}", folder=home)
    assert wrong.code == 2


WRONG = {
    "--output=x.jpg": "ending in .png or .npy",
    "--output=x.png --number=0": "expected 1 or more",
    "--output=x.png --truncation=0": "expected a number above 0",
    "--output=x.png --seed=-1": "expected 0 or more",
    "--output=x.png --label=eleven": "no such class. There are: 0, 1, 2",
    "--output=x.png --step=3": "has no checkpoint at step 3",
    "--output=no/folder/x.png": "can't be written",
}


def test_a_wrong_drawing_is_answered_in_one_line(
    whole: tuple[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for flags, part in WRONG.items() if whole[0] == "gan" else ():
        assert main(["draw", str(whole[1]), *flags.split()]) == 2
        said = capsys.readouterr().err
        assert part in said and said.count("\n") == 1, said


def test_a_run_encodes_its_data(whole: tuple[str, Path], home: Path) -> None:
    family, folder = whole
    out = folder / "encoded"
    flags = ["--judge"] if family == "vae" else []
    done = process.aigc("encode", folder, f"--output={out}", *flags, folder=home)
    assert done.code == 0, done.err
    train, labels = np.load(out / "train.npy"), np.load(out / "train_labels.npy")
    assert len(train) == len(labels) == 20 and len(np.load(out / "validation.npy")) == 10
    if family == "vqvae":
        assert train.dtype == np.int32 and train.shape == (20, 4)
    if family == "vae":
        assert "principal components" in done.out and "pixels (64)" in done.out


def test_a_collapse_is_told_by_what_earlier_starts_had_reached(home: Path) -> None:
    recipe = "configs/gan/ring.py"
    typed = ["train", recipe, *tiny.words(recipe, *RUN), "--workdir=fallen"]
    short = process.aigc(*typed, "--config.run.steps=4", folder=home)
    assert short.code == 0 and "collapse" not in short.err
    # A generator that has hardly begun. As if it had been otherwise:
    path = home / "fallen" / "metrics.jsonl"
    path.write_text(re.sub('("modes/covered": )[01]', r"\g<1>8", path.read_text()))
    assert path.read_text().count('"modes/covered": 8') == 2
    alone = process.aigc("eval", "fallen", "--only=modes", folder=home)
    assert alone.code == 0 and "collapse" not in alone.err  # a checkpoint judged by itself
    more = process.aigc(*typed, "--allow-change=run.steps", folder=home)
    assert more.code == 0, more.err
    said = " of 8 modes at step 8, less than half of the 8 that this run had reached"
    assert more.err.count(said) == 1 and "aigc: warning: modes/covered: " in more.err


def test_a_game_is_judged_through_the_weights_of_other_runs(home: Path) -> None:
    """Of a classifier, and of another game's discriminator."""
    short = [*RUN, "--config.run.steps=2", "--config.run.eval_every=0"]
    judge, game = "configs/classifier/mnist.py", "configs/gan/mnist_mlp.py:info"
    looks = "--config.task.auxiliaries=('frozen_features',)"
    sizes = "--config.task.frozen_args=(('widths', (4, 4)), ('hidden', 16))"
    for recipe, name, flags in (
        (judge, "judge", ()),
        (game, "first", ()),
        (game, "by-judge", (looks, "--config.task.frozen=cnn", sizes, _from("judge/params/model"))),
        (game, "by-first", (looks, _from("first/params/discriminator"))),
    ):
        typed = [recipe, *tiny.words(recipe, *short, *flags)]
        done = process.aigc("train", *typed, f"--workdir={name}", folder=home)
        assert done.code == 0, done.err
    with contextlib.chdir(home):
        kept = {name: wire.trained(Path(name)).state for name in ("by-judge", "by-first")}
        sources = {
            "by-judge": wire.trained(Path("judge")).state.params["model"],
            "by-first": wire.trained(Path("first")).state.params["discriminator"],
        }
    for name, source in sources.items():
        assert (
            tree.first_difference(
                *map(jax.device_get, (kept[name].vars["frozen_features"], source))
            )
            is None
        )


def _from(part: str) -> str:
    return f"--config.init_from={{'vars/frozen_features': '{part}'}}"


# --- many seeds as one program --------------------------------------------------------------

LONG = {
    "gan": ("configs/gan/ring.py", "--config.hyper.lr=1e-3"),
    "vae": ("configs/vae/mnist.py",),
    "lm": ("configs/lm/shakespeare_char.py",),
}


@pytest.mark.parametrize("family", LONG)
def test_seeds_together_are_the_runs_alone(family: str, home: Path) -> None:
    recipe, *changes = LONG[family]
    typed = [recipe, *tiny.words(recipe, *changes, *RUN)]
    root = home / f"seeds-{family}"
    done = process.aigc("sweep", *typed, "--seeds=2", f"--workdir={root}", folder=home)
    assert done.code == 0, done.err
    alone = home / f"alone-{family}"
    done = process.aigc("train", *typed, "--config.run.seed=1", f"--workdir={alone}", folder=home)
    assert done.code == 0, done.err
    one, other = toy.rows(toy.trial(root, "seed=1")), toy.rows(alone)
    assert [row["step"] for row in one] == [row["step"] for row in other]
    names = [n for n in other[-1] if n.startswith(("train/", "validation"))]
    assert names
    for a, b in zip(one, other, strict=True):
        for name in set(b) - {"wall"}:
            if name.startswith(("train/", "validation")) and "accuracy" not in name:
                np.testing.assert_allclose(a[name], b[name], rtol=2e-3, atol=2e-4, err_msg=name)
    folders = [toy.trial(root, f"seed={seed}") for seed in (0, 1)]
    apart = [next(r["train/loss"] for r in toy.rows(f) if "train/loss" in r) for f in folders]
    assert apart[0] != apart[1]
    kept = {p.name for p in alone.iterdir()}
    assert kept - {p.name for p in (toy.trial(root, "seed=1")).iterdir()} == set()
    # A trial goes on alone, with the command that its status names.
    said = toy.status(toy.trial(root, "seed=1"))
    assert said["state"] == "finished" and said["next"] == ""
    longer = [w for w in typed if "run.steps=" not in w]
    more = process.aigc(
        "train", *longer, "--config.run.seed=1", "--config.run.steps=10",
        "--allow-change=run.steps", f"--workdir={toy.trial(root, 'seed=1')}", folder=home,
    )  # fmt: skip
    assert more.code == 0, more.err
    assert toy.rows(toy.trial(root, "seed=1"))[-1]["step"] == 10


def test_stopped_and_killed_seeds_go_on_together(home: Path) -> None:
    recipe, *changes = LONG["gan"]
    # Both ends come between two rows of the log, after a save at an evaluated step (a save waits
    # for the one before, so a kill at step 4 leaves at least that of step 2 whole): no row may be
    # doubled, and none may forget the steps before.
    odd = ("--config.run.log_every=5", "--config.run.eval_every=2", "--config.run.save_every=2")
    typed = ["sweep", recipe, *tiny.words(recipe, *changes, *RUN), *odd, "--seeds=2"]
    whole = process.aigc(*typed, "--workdir=s-whole", folder=home)
    assert whole.code == 0, whole.err
    for name, nth, code in (("SIGTERM", 2, 75), ("SIGKILL", 4, -signal.SIGKILL)):
        ends = at("aigc_jax.sweep.vectorised", "_placed", name, nth=nth)
        half = process.aigc(*typed, f"--workdir=s-{name}", folder=home, first=ends)
        assert half.code == code, half.err
        if name == "SIGTERM":
            said = toy.status(toy.trial(home / f"s-{name}", "seed=0"))
            assert said["state"] == "stopped"
        again = process.aigc(*typed, f"--workdir=s-{name}", folder=home)
        assert again.code == 0, again.err
        assert "resumed 2 trials" in again.out
        for seed in (0, 1):
            with contextlib.chdir(home):
                a, b = (toy.trial(Path(f"s-{run}"), f"seed={seed}") for run in ("whole", name))
                assert check_resume.compare(a, b) is None


# --- what a model is good for ---------------------------------------------------------------


def test_samples_by_class_train_a_classifier(home: Path) -> None:
    recipe = "configs/gan/mnist_dcgan.py:conditional"
    changes = ["--config.run.steps=4", *RUN[1:]]
    model = process.aigc(
        "train", recipe, *tiny.words(recipe, *changes), "--workdir=classes", folder=home
    )
    assert model.code == 0, model.err
    judge = "configs/classifier/mnist.py"
    few = [*tiny.words(judge, *changes), "--with=classes", "--seeds=2", "--samples=30"]
    done = process.aigc("augment", judge, *few, "--workdir=augmented", folder=home)
    assert done.code == 0, done.err
    assert "difference, seed by seed: " in done.out
    arms = [toy.trial(home / "augmented" / arm, "seed=0") for arm in ("real", "augmented")]
    real, mixed = map(toy.rows, arms)
    assert real[-1]["step"] == mixed[-1]["step"] == 4
    assert real[1]["train/loss"] != mixed[1]["train/loss"]  # trained on other rows
    assert real[0]["validation/loss"] == pytest.approx(mixed[0]["validation/loss"], rel=1e-5)
    for flags, part in {"--share=0": "above 0", "--seeds=1": "2 or more seeds"}.items():
        wrong = process.aigc("augment", judge, *few, flags, folder=home)
        assert wrong.code == 2 and part in wrong.err and wrong.err.count("\n") == 1
    out = home / "filled.png"
    filled = process.aigc("inpaint", "classes", "--number=3", "--steps=3", f"--output={out}",
                          folder=home)  # fmt: skip
    assert filled.code == 0, filled.err
    assert "of the mean picture" in filled.out and out.read_bytes()[:4] == b"\x89PNG"
    for flags, part in {
        "--hide=middle": "expected center, left",
        "--split=trian": "has no such split",
        "--steps=0": "expected 1 or more",
    }.items():
        wrong = process.aigc("inpaint", "classes", flags, f"--output={out}", folder=home)
        assert wrong.code == 2 and part in wrong.err and wrong.err.count("\n") == 1
    again = process.aigc(
        "draw", "classes", "--standing=2", "--label=3", "--number=2", f"--output={out}", folder=home
    )
    assert again.code == 0, again.err
