"""The same run on any mesh: values to rounding, and the collectives that each scheme should have.

Eight pretended devices in processes of their own, since JAX counts devices once; see `meshes.py`.
"""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import meshes
import process
import pytest

HERE = Path(__file__).parent
# Sums over devices are in another order: some float32 roundings, after 20 steps.
NEAR = 3e-6
CASES = {
    "lm": ("8x1", "4x2", "2x2x2", "sequence", "slices", "pmap"),
    "accumulate": ("8x1", "4x2", "2x2x2"),
    "gan": ("8x1", "4x2", "2x2x2"),
    "vae": ("8x1", "4x2", "2x2x2"),
}
OTHERS = {"memory": "fsdp 2,fsdp 8", "attention": "sequence,rows"}
PAIRS = [(family, mesh) for family, names in CASES.items() for mesh in names]


def measured(*words: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", str(HERE / "meshes.py"), *words],
        env={
            **os.environ,
            "XLA_FLAGS": process.devices(8),
            "PYTHONPATH": os.pathsep.join([str(HERE), str(process.HOUSE)]),
        },
        capture_output=True, text=True, timeout=process.PATIENCE,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "rematerialization" not in done.stderr, "an array was gathered whole to be split anew"
    found: dict[str, Any] = json.loads(done.stdout)
    return found


class Report(dict[str, Any]):
    """What each process measured, by the word it was asked with; started when first asked for, so
    that no single test waits for all of them.
    """

    def __missing__(self, name: str) -> Any:
        asked = ",".join(CASES[name]) if name in CASES else OTHERS[name]
        self.update(measured(f"{name}={asked}"))
        return self[name]


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    return Report()


@pytest.mark.slow
@pytest.mark.parametrize(("family", "mesh"), PAIRS)
def test_a_mesh_gives_what_one_device_gives(report: dict[str, Any], family: str, mesh: str) -> None:
    """Losses and other metrics, gradients and parameters, an evaluation, samples."""
    assert report[family]["moved"] > 1e-2, "nothing was learned, so nothing was compared"
    assert report[family][mesh]["far"] == {
        part: pytest.approx(0.0, abs=NEAR) for part in report[family][mesh]["far"]
    }


def size(shape: str) -> int:
    return math.prod(int(n) for n in shape.partition("[")[2].rstrip("]").split(",") if n)


def test_fsdp_gathers_parameters_and_scatters_gradients(report: dict[str, Any]) -> None:
    found = report["lm"]["4x2"]
    split = {name for name, parts in found["shards"].items() if parts > 1}
    assert {name.rpartition("/")[0] for name in split if name.endswith("kernel")} == {
        f"model/block_0/{part}" for part in ("attention/qkv", "attention/out", "mlp/hidden",
                                             "mlp/out")
    }  # fmt: skip
    for whole, part in (
        ([32, 96], [16, 96]), ([32, 32], [32, 16]), ([32, 128], [16, 128]), ([128, 32], [128, 16]),
    ):  # fmt: skip
        assert _either(whole) & set(found["gathered"]), f"{whole} is not gathered"
        assert _either(part) & set(found["scattered"]), f"{part} is not scattered"
        assert _either(part) & set(found["summed"]), f"over 'data' more than {part} is summed"
    # Only parameters are gathered: no batch, no logits, nothing of the optimizer.
    assert max(map(size, found["gathered"])) <= 128 * 32
    assert len([shape for shape in found["gathered"] if size(shape) > 64]) <= 2 * 5


def _either(shape: list[int]) -> set[str]:
    return {f"f32[{a},{b}]" for a, b in (shape, shape[::-1])}


def test_data_parallelism_sums_gradients_and_gathers_nothing(report: dict[str, Any]) -> None:
    for mesh in ("8x1", "pmap"):
        found = report["lm"][mesh]
        assert not [shape for shape in found["gathered"] if size(shape) > 1]
        weights = meshes.VOCAB * 32 + 16 * 32 + 32 * 96 + 32 * 32 + 2 * 32 * 128
        vectors = 96 + 32 + 128 + 32 + 3 * 2 * 32
        summed = sum(map(size, found["summed"]))
        # The table of embeddings has two gradients, of its rows and of the output layer.
        assert weights + vectors <= summed <= weights + vectors + meshes.VOCAB * 32 + 40


def test_a_vae_draws_its_bits_where_the_rows_are(report: dict[str, Any]) -> None:
    found = report["vae"]["8x1"]
    assert not [shape for shape in found["gathered"] if size(shape) > 1]


def test_tensor_parallelism_sums_twice_each_way(report: dict[str, Any]) -> None:
    rows = meshes.ROWS // 4 * meshes.CONTEXT
    found = report["lm"]["2x2x2"]
    activations = [shape for shape in found["summed"] if shape == f"f32[{rows},32]"]
    # In each half of the block once forward and once back, and back from the split vocabulary.
    assert len(activations) == 2 * 2 + 1
    assert set(found["shards"].values()) == {1, 2, 4}


def test_a_split_row_gathers_keys_and_values_alone(report: dict[str, Any]) -> None:
    found = report["lm"]["sequence"]
    keys = f"f32[{meshes.ROWS // 2},{meshes.CONTEXT},2,1,8]"
    assert found["gathered"].count(keys) == 2
    whole = meshes.ROWS // 2 * meshes.CONTEXT * 32
    assert not [shape for shape in found["gathered"] if size(shape) >= whole]


@pytest.mark.parametrize(("family", "mesh"), [p for p in PAIRS if p[0] in ("lm", "accumulate")])
def test_nothing_exchanges_the_logits(report: dict[str, Any], family: str, mesh: str) -> None:
    """Not even a device's part of [B, T, V]."""
    found = report[family][mesh]
    whole, part = str(meshes.VOCAB), str(meshes.VOCAB // 2)
    for shape in [*found["gathered"], *found["summed"], *found["scattered"]]:
        assert shape.rstrip("]").rpartition(",")[2].rpartition("[")[2] not in (whole, part), shape


def test_memory_shrinks_as_the_mesh_grows(report: dict[str, Any]) -> None:
    (args_2, temp_2), (args_8, temp_8) = report["memory"]["fsdp 2"], report["memory"]["fsdp 8"]
    assert args_8 < 0.5 * args_2
    assert temp_8 < 0.8 * temp_2


def test_attention_by_blocks_over_places_that_are_split_is_the_plain_form(
    report: dict[str, Any],
) -> None:
    """What the layers give, and the gradients of all parameters; windows, grouped heads, ALiBi."""
    assert set(report["attention"]) == {
        f"{name} {mesh}" for name in meshes.ATTENTION for mesh in ("sequence", "rows")
    }
    for name, (apart, size) in report["attention"].items():
        assert size > 0.5, name
        assert apart < 2e-5, (name, apart)
