"""Model, loss, AdamW, clipping and schedule against PyTorch's, step by step."""

import importlib.util
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from aigc_jax.core import optim, tree
from aigc_jax.data.base import ArraySpec, Spec
from aigc_jax.tasks import lm

GOLDEN = Path(__file__).parent / "golden"


def maker():
    """The script that made the golden file: weights, batches and numbers are read from there."""
    spec = importlib.util.spec_from_file_location("make_gpt", GOLDEN / "make_gpt.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_twelve_steps_equal_pytorch():
    g, golden = maker(), json.loads((GOLDEN / "gpt.json").read_text())
    shape = (g.BATCH, g.CONTEXT)
    facts = {"vocab_size": g.VOCAB, "context": g.CONTEXT, "token_bytes": np.ones(g.VOCAB, int)}
    spec = Spec({"inputs": ArraySpec(shape, "int32")}, facts)
    model = {"name": "transformer", "layers": g.LAYERS, "heads": g.HEADS, "width": g.WIDTH}
    task = lm.make(spec, optim.make(g.STEPS), model)
    numbers = {**optim.HYPER, **lm.HYPER, "lr": g.LR, "warmup": g.WARMUP, "b1": g.BETAS[0],
               "b2": g.BETAS[1], "weight_decay": g.DECAY, "clip_norm": g.CLIP,
               "end_ratio": g.END_RATIO}  # fmt: skip
    state = task.init(jax.random.key(0), {k: jnp.float32(v) for k, v in numbers.items()})
    drawn = g.weights()
    assert sorted(drawn) == sorted(name for name, _ in tree.named_leaves(state.params["model"]))
    state = state.replace(
        params={"model": tree.map_named(lambda n, _: jnp.asarray(drawn[n]), state.params["model"])}
    )
    step, losses, norms = jax.jit(task.step), [], []
    for tokens in g.batches().astype(np.int32):
        batch = {"inputs": tokens[:, :-1], "targets": tokens[:, 1:],
                 "mask": np.ones(shape, np.float32)}  # fmt: skip
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"][0] / metrics["loss"][1]))
        norms.append(float(metrics["grad_norm"][0]))
    np.testing.assert_allclose(losses, golden["losses"], rtol=2e-5)
    np.testing.assert_allclose(norms, golden["gradient_norms"], rtol=1e-4)
    assert min(norms) < g.CLIP < max(norms), "the clipping must matter, and not always"
    for name, leaf in tree.named_leaves(state.params["model"]):
        np.testing.assert_allclose(
            float(jnp.abs(leaf).sum()), golden["last_weights"][name], rtol=1e-4, err_msg=name
        )
