"""Makes `gpt.json`: what PyTorch computes for a small GPT, from initial weights that NumPy draws.

    python tests/golden/make_gpt.py        # needs PyTorch, which the tests do not

The model, its loss, AdamW, the clipping and the schedule are written here a second time, with
nothing of the package but the recipe's numbers. `tests/test_parity.py` holds ours to them.
"""

import json
import math
from pathlib import Path

import numpy as np

VOCAB, CONTEXT, BATCH, LAYERS, HEADS, WIDTH, STEPS, WARMUP = 11, 8, 3, 2, 2, 16, 12, 4
LR, END_RATIO, BETAS, DECAY, CLIP = 1e-2, 0.1, (0.9, 0.99), 0.1, 1.0


def weights() -> dict[str, np.ndarray]:
    """Initial weights by our names, from raw bits that no NumPy release changes."""
    shapes: dict[str, tuple[int, ...]] = {
        "embed": (VOCAB, WIDTH),
        "position_embed": (CONTEXT, WIDTH),
        "final_norm/scale": (WIDTH,),
    }
    for i in range(LAYERS):
        block = f"block_{i}"
        # A head's query, key and value stand side by side, then those of the next head.
        shapes[f"{block}/attention/qkv/kernel"] = (WIDTH, 3 * WIDTH)
        shapes[f"{block}/attention/out/kernel"] = (WIDTH, WIDTH)
        shapes[f"{block}/mlp/hidden/kernel"] = (WIDTH, 4 * WIDTH)
        shapes[f"{block}/mlp/out/kernel"] = (4 * WIDTH, WIDTH)
        shapes[f"{block}/attention_norm/scale"] = (WIDTH,)
        shapes[f"{block}/mlp_norm/scale"] = (WIDTH,)
    drawn = {}
    for index, (name, shape) in enumerate(sorted(shapes.items())):
        raw = np.random.Philox(key=index).random_raw(math.prod(shape))
        uniform = (raw >> np.uint64(40)).astype(np.float64) / 2**24 - 0.5
        center = 1.0 if name.endswith("scale") else 0.0
        drawn[name] = (center + 0.5 * uniform).astype(np.float32).reshape(shape)
    return drawn


def batches() -> np.ndarray:
    """Tokens, int64 [STEPS, BATCH, CONTEXT + 1]."""
    raw = np.random.Philox(key=999).random_raw(STEPS * BATCH * (CONTEXT + 1))
    return (raw % np.uint64(VOCAB)).astype(np.int64).reshape(STEPS, BATCH, CONTEXT + 1)


def main() -> None:
    """Trains in PyTorch and writes losses, gradient norms and the sum of each weight at the end."""
    import torch
    from torch.nn import functional as F

    w = {name: torch.nn.Parameter(torch.from_numpy(value)) for name, value in weights().items()}

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.layer_norm(x, (WIDTH,), w[f"{name}/scale"], None, 1e-5)

    def forward(x: torch.Tensor) -> torch.Tensor:
        h = w["embed"][x] + w["position_embed"]
        for i in range(LAYERS):
            z = norm(h, f"block_{i}/attention_norm")
            fused = w[f"block_{i}/attention/qkv/kernel"].unflatten(-1, (HEADS, 3, -1))
            q, k, v = (
                (z @ fused[:, :, n].flatten(1)).unflatten(-1, (HEADS, -1)).transpose(1, 2)
                for n in range(3)
            )
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
            h = h + y @ w[f"block_{i}/attention/out/kernel"]
            z = F.gelu(norm(h, f"block_{i}/mlp_norm") @ w[f"block_{i}/mlp/hidden/kernel"])
            h = h + z @ w[f"block_{i}/mlp/out/kernel"]
        return norm(h, "final_norm") @ w["embed"].T

    groups = [
        {"params": [p for p in w.values() if p.dim() > 1], "weight_decay": DECAY},
        {"params": [p for p in w.values() if p.dim() == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=BETAS)
    losses, norms = [], []
    for step, tokens in enumerate(torch.from_numpy(batches())):
        progress = min(1.0, max(0.0, (step - WARMUP) / (STEPS - WARMUP)))
        share = END_RATIO + (1 - END_RATIO) * 0.5 * (1 + math.cos(math.pi * progress))
        for group in optimizer.param_groups:
            group["lr"] = LR * share * min(1.0, (step + 1) / (WARMUP + 1))
        loss = F.cross_entropy(forward(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(w.values(), CLIP)))
        optimizer.step()
        losses.append(float(loss.detach()))
    made = {
        "torch": torch.__version__,
        "losses": losses,
        "gradient_norms": norms,
        "last_weights": {name: float(p.detach().abs().sum()) for name, p in w.items()},
    }
    Path(__file__).with_name("gpt.json").write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()
