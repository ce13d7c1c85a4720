"""GPT-2's smallest model from scratch: 2.85 on OpenWebText, 3.28 on FineWeb.

    aigc reproduce experiments/gpt2_124m.py --scale=full --only="nanoGPT, OpenWebText" \
        --config.data.path=FOLDER --config.data.documents=files

github.com/karpathy/nanoGPT, README: 12 layers, 768 wide, 1,024 tokens of context, 0.49 million
tokens a step; a validation loss of about 2.85 nats a token on OpenWebText after 600,000 steps, four
days of eight A100s. The released GPT-2 has 3.12 there, since it was trained on other text.

github.com/karpathy/llm.c trains the same network on 10 billion tokens of FineWeb in 19,560 steps;
github.com/KellerJordan/modded-nanogpt, README, gives its validation loss as 3.28, the target of
that speedrun. Losses on the two texts do not compare.

Not run: needs accelerators, and the two texts, which are given one at a time (`--only`). The rows'
validation parts are not the published ones: nanoGPT holds out 0.05 % of the documents at random,
FineWeb's is a shard of its own.
"""


def get_study():
    """Returns the study."""
    return {
        "title": "GPT-2 124M from scratch",
        "question": "Are the validation losses of the public reproductions reached?",
        "paper": {
            "title": "nanoGPT; and modded-nanogpt for llm.c's result",
            "url": "https://github.com/karpathy/nanoGPT",
            "place": "README",
        },
        "metrics": {
            "validation/loss": {
                "direction": "minimize",
                "at": "best",
                "protocol": "exact mean over the validation part in consecutive windows of 1,024"
                " tokens of GPT-2's vocabulary",
                "unit": "nats a token",
                "tolerance": 0.02,
                "floors": {"uniform": 10.825},
            },
        },
        "rows": [
            {
                "name": "nanoGPT, OpenWebText",
                "recipe": "configs/lm/gpt2_124m.py",
                "published": {"validation/loss": 2.85},
                "conditions": "OpenWebText, 600,000 steps; the README says 'about'",
                "one_sided": True,
            },
            {
                "name": "llm.c, FineWeb",
                "recipe": "configs/lm/gpt2_124m.py",
                "published": {"validation/loss": 3.28},
                "conditions": "FineWeb, 10 billion tokens, 19,560 steps",
                "one_sided": True,
                "overrides": {
                    "run.steps": 19_560,
                    "run.batch_size": 512,
                    "task.accumulate": 32,
                    "hyper.warmup": 700.0,
                    "hyper.end_ratio": 0.0,
                },
            },
        ],
        "scales": {
            "smoke": {
                "cost": "two minutes of two CPU cores, on any text.",
                "overrides": {
                    "run.steps": 4,
                    "run.log_every": 1,
                    "run.batch_size": 2,
                    "task.accumulate": 1,
                    "task.model.layers": 2,
                    "task.model.heads": 2,
                    "task.model.width": 16,
                    "data.context": 64,
                    "data.tokenizer": "bytes",
                    "data.train_share": 0.9,
                    "task.vocab_chunk": 0,
                    "evals.samples.number": 1,
                    "evals.samples.count": 20,
                },
                "rows": ("nanoGPT, OpenWebText",),
            },
            "full": {
                "cost": "four days of eight A100s (the first row, by nanoGPT's README); an hour and"
                " a half of eight A100s (the second, by modded-nanogpt's).",
            },
        },
        "notes": "Not run here: no accelerator.",
    }
