"""GPT-2's smallest model, from scratch, on documents of your own.

    aigc train configs/lm/gpt2_124m.py --config.data.path=FOLDER --config.data.documents=files

Source: github.com/karpathy/nanoGPT, config/train_gpt2.py: 12 layers, 12 heads, 768 wide, no biases,
1,024 tokens of GPT-2's byte pairs, 480 rows (0.49 million tokens) a step in 40 parts, 600,000
steps; AdamW with a cosine from 6e-4 to 6e-5 after 2,000 steps of warm-up. nanoGPT reports a
validation loss of about 2.85 nats a token on OpenWebText after four days on eight A100s; the
released GPT-2 has 3.11 there.

Not run here: no accelerator. What we expect on such text, not what we measured (nats a token): 3.9
to 4.4 at step 2,000, 3.1 to 3.4 at 20,000, and nanoGPT's 2.85 at the end. `aigc plan` says what a
step costs before you begin.

Products are bfloat16; the loss goes through the 50,257 symbols in chunks, so
that the logits of 12 rows (2.5 GB) never exist as a whole.
"""

from ml_collections import ConfigDict


def get_config(arg: str | None = None) -> ConfigDict:
    if arg is not None:
        raise ValueError(f"this recipe has no variants, so no {arg!r}")
    return ConfigDict(
        {
            "task": {
                "name": "lm",
                "accumulate": 40,
                "vocab_chunk": 8192,
                "model": {
                    "name": "transformer",
                    "layers": 12,
                    "heads": 12,
                    "width": 768,
                    "dtype": "bfloat16",
                },
            },
            "data": {
                "name": "text",
                "path": "shakespeare",
                "tokenizer": "gpt2",
                "context": 1024,
                "train_share": 0.9995,
            },
            "optim": {"name": "adamw", "schedule": "cosine"},
            "hyper": {
                "lr": 6e-4,
                "warmup": 2000.0,
                "end_ratio": 0.1,
                "b2": 0.95,
                "weight_decay": 0.1,
                "clip_norm": 1.0,
            },
            "evals": {
                "validation": {"name": "mean", "split": "validation"},
                "samples": {"name": "samples"},
            },
            "run": {
                "steps": 600_000,
                "batch_size": 480,
                "eval_every": 1000,
                "save_every": 1000,
                "best": "validation/loss",
            },
        }
    )
