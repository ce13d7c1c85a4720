"""What `aigc export` writes is used by a process that has JAX and NumPy, and not the package."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import process
import pytest
import tiny

from aigc_jax.cli import export as command
from aigc_jax.cli import wire
from aigc_jax.cli.main import main
from aigc_jax.core.task import Weights, weights
from aigc_jax.errors import UserError
from aigc_jax.generate.sampler import Sampler
from aigc_jax.interop import program, tensors
from aigc_jax.models import platform

CONFIGS = process.HOUSE / "configs"
KEY = np.asarray(jax.random.key_data(jax.random.key(7)))
PROMPT = np.array([[0, 3, 1, 2], [0, 0, 0, 5]], np.int32)
# A reader of ten lines, as docs/export.md has it, and the calls of all programs.
READER = """
import json, struct, sys
sys.modules["aigc_jax"] = sys.modules["flax"] = None
import numpy as np
from jax import export

KINDS = {"F32": "<f4", "I32": "<i4"}


def read(path):
    data = open(path, "rb").read()
    start = 8 + struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    return {
        name: np.frombuffer(data, KINDS[a["dtype"]], int(np.prod(a["shape"])),
                            start + a["data_offsets"][0]).reshape(a["shape"])
        for name, a in header.items()
    }


answers = {}
inputs = np.load("inputs.npz")
for folder in sys.argv[1:]:
    weights = read(f"{folder}/weights.safetensors")
    for name, about in json.load(open(f"{folder}/manifest.json"))["programs"].items():
        loaded = export.deserialize(bytearray(open(f"{folder}/{about['file']}", "rb").read()))
        assert set(loaded.platforms) == set(about["platforms"]), about
        given = [inputs[f"{folder}/{name}/{i['name']}"] for i in about["inputs"]]
        answers[f"{folder}/{name}"] = loaded.call(weights, *given)
np.savez("answers.npz", **answers)
"""


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A language model's run folder, of one step."""
    folder = tmp_path_factory.mktemp("lm")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        recipe = process.recipe(folder, samples=False)
        words = ["train", str(recipe), "--workdir=run", "--config.run.steps=1",
                 "--config.run.eval_every=0", "--config.run.steps_per_call=1"]  # fmt: skip
        assert main(words) == 0
        yield folder


class Case:
    """A family that was initialised and not trained, exported."""

    def __init__(self, folder: Path, name: str, recipe: str) -> None:
        built = wire.parts(tiny.tiny(CONFIGS / recipe))
        hyper = {n: np.float32(v) for n, v in built.config["hyper"].items()}
        self.task, self.name = built.task, name
        self.weights = weights(jax.jit(built.task.init)(jax.random.key(3), hyper))
        named = program.flat(self.weights)
        found = {
            "forward": program.forward(built.task, self.weights, built.data.spec),
            "sample": program.sampling(built.task, self.weights),
        }
        (folder / name).mkdir()
        tensors.write_safetensors(folder / name / "weights.safetensors", program.host(named), {})
        self.programs = {k: t for k, t in found.items() if t is not None}
        about = {}
        for kind, traceable in self.programs.items():
            made = program.export(traceable, named, ("cpu", "cuda", "tpu"))
            (folder / name / kind).write_bytes(made.data)
            about[kind] = {"file": kind, **made.about}
        (folder / name / "manifest.json").write_text(json.dumps({"programs": about}))


@pytest.fixture(scope="module")
def answers(lm: Path) -> dict[str, Any]:
    """What the process without the package has computed, and the families' own answers."""
    assert main(["export", "run", "--to=lm"]) == 0
    done = wire.trained(Path("run"))
    gan = Case(lm, "gan", "gan/ring.py")
    vae = Case(lm, "vae", "vae/mnist.py")
    z = {
        case.name: rng().normal(size=(5, case.programs["forward"].inputs[0].shape[1])).astype("f4")
        for case in (gan, vae)
    }
    tokens = rng().integers(0, 9, (3, 8)).astype(np.int32)
    inputs = {
        "lm/forward/tokens": tokens,
        "lm/sample/key": KEY, "lm/sample/prompt": PROMPT,
        "lm/sample/length": np.array([4, 1], np.int32),
        "lm/sample/temperature": np.float32(0.9), "lm/sample/top_k": np.int32(6),
        **{f"{case.name}/forward/z": z[case.name] for case in (gan, vae)},
        **{f"{case.name}/sample/key": KEY for case in (gan, vae)},
        **{f"{case.name}/sample/label": np.zeros(4, np.int32) for case in (gan, vae)},
    }  # fmt: skip
    np.savez("inputs.npz", **inputs)
    (lm / "reader.py").write_text(READER)
    ended = subprocess.run(
        [sys.executable, "reader.py", "lm", "gan", "vae"], capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    sample = done.parts.task.sample
    assert isinstance(sample, Sampler)
    network, params = sample.programs.network, done.weights.params["model"]
    key = jax.random.wrap_key_data(KEY)
    # Rows of unlike length have to be asked for one by one; the second is row 1 of its key.
    first = sample(done.weights, key, prompt=PROMPT[:1], count=4, temperature=0.9, top_k=6)
    both = sample(done.weights, key, prompt=PROMPT[[1, 1], 3:], count=4, temperature=0.9, top_k=6)
    expected: dict[str, Any] = {
        "lm/forward": network.apply({"params": params}, tokens)[0],
        "lm/sample": np.stack([first[0, 4:], both[1, 1:]]),
    }
    for case in (gan, vae):
        decode = case.task.functions["decode"]
        expected[f"{case.name}/forward"] = decode(case.weights, z[case.name])
        assert case.task.sample is not None
        expected[f"{case.name}/sample"] = case.task.sample(case.weights, key, number=4)
    return {"got": dict(np.load("answers.npz")), "expected": expected}


@pytest.mark.parametrize("family", ["lm", "gan", "vae"])
@pytest.mark.parametrize("kind", ["forward", "sample"])
def test_a_process_without_the_package_gets_the_same(
    answers: dict[str, Any], family: str, kind: str
) -> None:
    got, expected = (np.asarray(answers[side][f"{family}/{kind}"]) for side in ("got", "expected"))
    assert got.shape == expected.shape
    if family == "lm" and kind == "sample":
        np.testing.assert_array_equal(got, expected)
    else:
        np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-5)


def test_the_manifest_says_what_there_is(lm: Path, answers: dict[str, Any]) -> None:
    told = json.loads((lm / "lm" / "manifest.json").read_text())
    assert told["step"] == 1
    assert told["averaged"] == ["model"]
    forward, sample = told["programs"]["forward"], told["programs"]["sample"]
    assert forward["platforms"] == sample["platforms"] == ["cpu", "cuda", "tpu"]
    assert forward["inputs"] == [{"name": "tokens", "shape": ["b", 8], "dtype": "int32"}]
    assert forward["outputs"][0]["shape"][:2] == ["b", 8]
    assert sample["outputs"] == [{"shape": ["b", 4], "dtype": "int32"}]
    done = wire.trained(Path("run"))
    found = tensors.read(lm / "lm" / "weights.safetensors")
    named = program.flat(done.weights)
    assert found.keys() == named.keys() == told["weights"]["tensors"].keys()
    for name, x in named.items():
        np.testing.assert_array_equal(found[name], x)
    # The average, not the parameters.
    head = next(n for n in named if n.endswith("kernel"))
    raw = dict(program.flat(Weights(done.state.params, {})))
    assert (found[head] != np.asarray(raw[head])).any()


def test_each_platform_has_its_own_form() -> None:
    """A form for CPUs is in the CPU's branch alone, and the branches are both there."""
    seen: list[str] = []

    def function(weights: Any, x: jax.Array) -> jax.Array:
        seen.append("cpu" if platform.on_cpu() else "other")
        return jax.lax.optimization_barrier(x) if platform.on_cpu() else x * 1

    what = program.Traceable(function, (program.Input("x", (-1, 2), "float32"),), "x")
    program.export(what, {}, ("cpu", "tpu"))
    assert set(seen) == {"cpu", "other"}
    seen.clear()
    program.export(what, {}, ("cuda",))
    assert set(seen) == {"other"}
    assert platform.on_cpu()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--platforms=cpu,gpu"], "no platform 'gpu'; expected some of cpu, cuda, rocm, tpu."),
        (["--platforms=,"], "expected some of cpu"),
        (["--what=weight"], "no 'weight'; expected some of weights, forward, sample."),
        (["--step=5"], "no checkpoint at step 5; it has 1."),
        (["--to=text.txt"], "text.txt: a file stands there already; give another --to"),
        (["--to=run"], "run: a folder with files stands there already"),
    ],
)
def test_what_cannot_be_is_one_line(
    lm: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    assert main(["export", "run", *words]) == 2
    said = capsys.readouterr().err
    assert told in said
    assert said.count("\n") == 1


def test_a_task_without_a_sampler_says_so(
    lm: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done = wire.trained(Path("run"))
    bare = done._replace(parts=done.parts._replace(task=done.parts.task._replace(sample=None)))
    monkeypatch.setattr(command.wire, "trained", lambda *_: bare)
    assert main(["export", "run", "--what=sample", "--to=none"]) == 2
    assert "its task, lm, draws nothing" in capsys.readouterr().err
    assert main(["export", "run", "--to=bare"]) == 0
    assert "no program 'sample': the task lm draws nothing" in capsys.readouterr().out
    assert sorted(p.name for p in Path("bare").iterdir()) == ["manifest.json",
                                                             "weights.safetensors"]  # fmt: skip


def test_an_open_size_that_no_program_can_have_becomes_one_row() -> None:
    def function(weights: Any, x: jax.Array) -> jax.Array:
        return x if x.shape[0] > 1 else x + 1

    what = program.Traceable(function, (program.Input("x", (-1,), "float32"),), "x")
    assert program.export(what, {}, ("cpu",)).about["rows"] == 1


def test_bfloat16_weights_are_written_and_read(tmp_path: Path) -> None:
    arrays = {"a": np.arange(3, dtype=np.int32), "b": np.ones((2, 3), jax.numpy.bfloat16),
              "c": np.float32(2).reshape(())}  # fmt: skip
    tensors.write_safetensors(tmp_path / "x.safetensors", arrays, {})
    found = tensors.read(tmp_path / "x.safetensors")
    for name, x in arrays.items():
        np.testing.assert_array_equal(found[name], x)
        assert found[name].dtype == x.dtype
    with pytest.raises(UserError, match="weights"):
        tensors.read(tmp_path / "nothing.safetensors")
