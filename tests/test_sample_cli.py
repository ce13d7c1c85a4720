"""`aigc sample RUN` and `aigc_jax.load`, on a run of four steps."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import process
import pytest

import aigc_jax
from aigc_jax.cli.main import main
from aigc_jax.generate.model import Model

CONTEXT = 8  # of process.RECIPE


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    process.recipe(folder)
    done = process.aigc("train", "recipe.py", "--workdir=done", "--config.run.steps=4",
                        "--config.run.eval_every=0", f"--config.data.path={folder / 'text.txt'}",
                        folder=folder)  # fmt: skip
    assert done.code == 0, done.err
    return folder / "done"


@pytest.fixture(scope="module")
def model(run: Path) -> Model:
    return aigc_jax.load(str(run))


@pytest.fixture
def sample(run: Path, model: Model, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the command here, with the model that has its programs already; gives its stdout."""

    def load(folder: Path, step: int | None) -> Model:
        assert (folder, step) == (run, None)
        return model

    def call(*words: str) -> str:
        monkeypatch.setattr("aigc_jax.cli.sample.load", load)
        capsys.readouterr()
        assert main(["sample", str(run), *words]) == 0
        return capsys.readouterr().out

    return call


def test_python_in_three_lines(model: Model) -> None:
    found = model.generate("a bird", n=2, max_tokens=20, temperature=0.8)
    assert [len(c.tokens) for c in found] == [20, 20]
    assert found[0].text != found[1].text
    assert "".join(model.stream("a bird", max_tokens=20)) == found[0].text
    assert (model.step, model.context) == (4, CONTEXT)


def test_one_text_comes_as_it_is_written(sample: Any, model: Model) -> None:
    (expected,) = model.generate("a b", max_tokens=20, temperature=0.5, top_k=5, seed=3)
    words = ("--prompt=a b", "--max-tokens=20", "--temperature=0.5", "--top-k=5", "--seed=3")
    assert sample(*words) == f"a b{expected.text}\n"
    (plain,) = model.generate("\n", max_tokens=12)
    assert sample("--max-tokens=12") == f"\n{plain.text}\n"


def test_several_texts_have_a_line_between_them(sample: Any, model: Model) -> None:
    found = model.generate(["a", "th"], n=2, max_tokens=9)
    shown = "---\n".join(f"{c.prompt}{c.text}\n" for c in found)
    assert sample("--prompt=a", "--prompt=th", "--n=2", "--max-tokens=9") == shown


def test_jsonl_with_log_probabilities(sample: Any, model: Model) -> None:
    knobs: dict[str, Any] = {"top_p": 0.9, "min_p": 0.01, "repetition_penalty": 1.1,
                             "presence_penalty": 0.2, "frequency_penalty": 0.1,
                             "logit_bias": {3: 1.5, 4: -2.0}, "stop": ["zz", "q"],
                             "n": 2, "max_tokens": 9}  # fmt: skip
    flags = [f"--{k.replace('_', '-')}={v}" for k, v in knobs.items()
             if k not in ("logit_bias", "stop")]  # fmt: skip
    flags += ["--logit-bias=3=1.5", "--logit-bias=4=-2", "--stop=zz", "--stop=q"]
    out = sample("--prompt=a", "--format=jsonl", "--logprobs", *flags)
    for line, done in zip(out.splitlines(), model.generate("a", **knobs), strict=True):
        assert json.loads(line) == {
            "prompt": "a", "index": done.index, "seed": 0, "text": done.text,
            "finish_reason": "length", "tokens": list(done.tokens),
            "logprobs": list(done.logprobs), "raw_logprobs": list(done.raw_logprobs),
        }  # fmt: skip
    short = json.loads(sample("--format=jsonl", "--max-tokens=3"))
    assert set(short) == {"prompt", "index", "seed", "text", "finish_reason"}


def test_prompts_from_files(sample: Any, model: Model, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_bytes(b"a bird\r\nin the \nh")
    found = model.generate(["a bird", "in the ", "h"], max_tokens=7, seed=2)
    out = sample(f"--prompts={tmp_path}/p.txt", "--max-tokens=7", "--seed=2", "--format=jsonl")
    assert [json.loads(s)["text"] for s in out.splitlines()] == [c.text for c in found]
    lines = [{"prompt": "a"}, {"prompt": "th", "seed": 5, "n": 2, "stop": "e", "top_k": 2}]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    out = sample(f"--prompts={tmp_path}/p.jsonl", "--max-tokens=7", "--format=jsonl",
                 f"--output={tmp_path}/out.jsonl", "--batch-size=1")  # fmt: skip
    assert out == ""
    rows = [json.loads(s) for s in (tmp_path / "out.jsonl").read_text().splitlines()]
    found = [*model.generate("a", max_tokens=7),
             *model.generate("th", max_tokens=7, seed=5, n=2, stop="e", top_k=2)]  # fmt: skip
    assert [(r["prompt"], r["seed"], r["index"], r["text"]) for r in rows] == [
        (c.prompt, c.seed, c.index, c.text) for c in found
    ]


def test_a_process_of_its_own_writes_the_same(run: Path, model: Model) -> None:
    done = process.aigc("sample", run, "--prompt=a b", "--max-tokens=12", folder=run.parent)
    assert (done.code, done.err) == (0, "")
    assert done.out == f"a b{model.generate('a b', max_tokens=12)[0].text}\n"


def test_interrupting_is_no_traceback(run: Path) -> None:
    first = """
from aigc_jax.generate.model import Model
def stop(*args, **knobs):
    raise KeyboardInterrupt
Model._write = stop
"""
    done = process.aigc("sample", run, "--prompt=a", folder=run.parent, first=first)
    assert (done.code, done.err) == (130, "aigc: interrupted\n")


def test_importing_the_package_is_light() -> None:
    code = "import aigc_jax, sys; print(sorted({'jax', 'numpy', 'flax'} & set(sys.modules)))"
    words = [sys.executable, "-c", code]
    where = Path(aigc_jax.__file__).parents[1]
    found = subprocess.run(words, capture_output=True, text=True, cwd=where, check=True)
    assert found.stdout == "[]\n"


# --- refusals: exit 2 and one line -----------------------------------------------------------


def refused(capsys: Any, words: list[str], *parts: str) -> None:
    assert main(["sample", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1 and err.startswith("aigc: "), err
    for part in parts:
        assert part in err, err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--temperature=-1"], "temperature=-1.0: expected 0 (greedy) or above."),
        (["--temperature=warm"], "invalid float value: 'warm'"),
        (["--top-k=-1"], "top_k=-1: expected a whole number, 0 or above."),
        (["--top-p=0"], "top_p=0.0: expected a number in (0, 1]."),
        (["--top-p=1.5"], "top_p=1.5: expected a number in (0, 1]."),
        (["--min-p=-0.5"], "min_p=-0.5: expected a number in [0, 1]."),
        (["--repetition-penalty=0"], "repetition_penalty=0.0: expected a number above 0"),
        (["--presence-penalty=nan"], "presence_penalty=nan: expected a finite number"),
        (["--frequency-penalty=inf"], "frequency_penalty=inf: expected a finite number"),
        (["--n=0"], "n=0: expected a whole number, 1 or above."),
        (["--max-tokens=0"], "max_tokens=0: expected a whole number, 1 or above."),
        (["--seed=-1"], "seed=-1: expected a whole number from 0"),
        (["--prompt="], "The prompt is empty; expected at least one character."),
        (["--stop="], "A stop string is empty"),
        (["--logit-bias=4"], "--logit-bias=4: expected ID=VALUE, such as 12=-1.5."),
        (["--logit-bias=a=4"], "--logit-bias=a=4: expected ID=VALUE"),
        (["--logit-bias=-2=4"], "logit_bias: id -2: expected a token's id, 0 or above."),
        (["--batch-size=0"], "--batch-size=0: expected 1 or more."),
        (["--logprobs"], "--logprobs needs --format=jsonl."),
        (["--format=xml"], "invalid choice: 'xml'"),
        (["--prompts=nowhere.txt"], "The prompts can't be read from nowhere.txt"),
        (["--topp=1"], "--topp=1 is not understood. Did you mean '--top-p'?"),
    ],
)
def test_a_wrong_flag_is_answered_before_anything_is_read(
    words: list[str], message: str, capsys: Any
) -> None:
    refused(capsys, ["no-such-run", *words], message)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.txt", "a\n\nb\n", "p.txt, line 2: The prompt is empty"),
        ("p.txt", "", "p.txt, line 1: The prompt is empty"),
        ("p.jsonl", '{"prompt": "a"}\n{"prompt": \n', "p.jsonl, line 2: no JSON"),
        ("p.jsonl", '["a"]\n', "p.jsonl, line 1: expected an object"),
        ("p.jsonl", '{"text": "a"}\n', "p.jsonl, line 1: A request has no 'text'."),
        (
            "p.jsonl",
            '{"prompt": "a", "top_p": 2}\n',
            "line 1: top_p=2: expected a number in (0, 1]",
        ),
        ("p.jsonl", '{"prompt": "a", "stop": [""]}\n', "line 1: A stop string is empty"),
    ],
)
def test_a_wrong_file_of_prompts_says_which_line(
    name: str, text: str, message: str, tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / name).write_text(text)
    refused(capsys, ["no-such-run", f"--prompts={tmp_path / name}"], message)


def test_a_file_that_is_no_text(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "p.txt").write_bytes(b"\xff\xfe")
    refused(capsys, ["no-such-run", f"--prompts={tmp_path}/p.txt"], "can't be read", "utf-8")
    refused(capsys, ["no-such-run", f"--prompts={tmp_path}"], "can't be read")


def test_what_only_the_run_can_tell(run: Path, tmp_path: Path, capsys: Any) -> None:
    there = str(run)
    refused(capsys, [there, "--prompt=a bird in"], "has 9 tokens; the model's context is 8")
    refused(capsys, [there, "--prompt=@"], "The text has characters that the vocabulary lacks: '@'")
    refused(capsys, [there, "--logit-bias=999=1"], "id 999: expected a token's id, 0 to")
    refused(capsys, [there, "--step=3"], "has no checkpoint at step 3; it has 4")
    refused(capsys, [there, f"--output={tmp_path}/no/x"], "/no/x can't be written: No such file")
    refused(capsys, [str(tmp_path)], "is no run folder: it has no config.json")


def test_a_run_without_a_checkpoint(run: Path, capsys: Any) -> None:
    bare = run.parent / "bare"
    shutil.copytree(run, bare, ignore=shutil.ignore_patterns("checkpoints"))
    refused(capsys, [str(bare)], "has no checkpoint yet")
