"""A GPT of two layers on the characters of Shakespeare: what studies sweep on a CPU.

    aigc train configs/lm/tiny_shakespeare.py          # 64 wide
    aigc train configs/lm/tiny_shakespeare.py:w128     # wider, the standard parametrization
    aigc train configs/lm/tiny_shakespeare.py:mup128   # wider, muP with a base of 64

Heads are 16 wide at any width. In the standard parametrization matrices begin with a variance of
1 / fan_in, so ":w" and ":mup" begin alike but for the logits; what differs is the learning rate of
the matrices. `--config.evals.coordinates.name=coordinates` looks at the activations. Queries and
keys are normalized with `--config.task.model.qk_norm=true`, and logits kept from drifting with
`--config.hyper.z_loss=1e-4` (Wortsman et al. 2023, arXiv:2309.14322).

Source: ours, after nanoGPT's recipe for a CPU (`shakespeare_char.py`) with half its layers and
width. No published number is for it.

Machine and time: two CPU cores, some 26 s of CPU time (":mup128" 47), the start included. Measured
once on tinyshakespeare, in nats a character: 2.303, with ":mup128" 2.230.
"""

from ml_collections import ConfigDict

BASE = 64
DEPTH = 16  # of a head


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the recipe; what it leaves out has the defaults of the code.

    Args:
      arg: None, "wN" for N wide, or "mupN" for N wide under muP; N is a multiple of 16.
    """
    word = arg or f"w{BASE}"
    kind = word.rstrip("0123456789")
    width = int(word.removeprefix(kind) or 0)
    if kind not in ("w", "mup") or width < DEPTH or width % DEPTH:
        raise ValueError(f"no variant {arg!r} of this recipe; there are 'w128', 'mup128' and so on")
    mup = kind == "mup"
    return ConfigDict(
        {
            "task": {
                "name": "lm",
                "model": {
                    "name": "transformer",
                    "layers": 2,
                    "heads": width // DEPTH,
                    "width": width,
                    # 1 / sqrt(fan_in); under muP the base model's.
                    "init_std": (BASE if mup else width) ** -0.5,
                    "base_width": BASE if mup else 0,
                    "base_heads": BASE // DEPTH if mup else 0,
                },
            },
            "data": {"name": "text", "path": "shakespeare", "tokenizer": "char", "context": 64},
            "optim": {"name": "adamw", "schedule": "cosine"},
            "hyper": {
                "lr": 3e-3,
                "warmup": 50.0,
                "end_ratio": 0.1,
                "b2": 0.95,
                "weight_decay": 0.1,
                "clip_norm": 1.0,
            },
            "evals": {"validation": {"name": "mean", "split": "validation"}},
            "run": {"steps": 500, "batch_size": 16, "eval_every": 250, "best": "validation/loss"},
        }
    )
