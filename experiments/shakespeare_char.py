"""nanoGPT on the characters of Shakespeare: the recipe for a CPU and the one for a GPU.

    aigc reproduce experiments/shakespeare_char.py --scale=cpu --config.data.path=tiny_shakespeare
    aigc reproduce experiments/shakespeare_char.py --scale=full --config.data.path=tiny_shakespeare

github.com/karpathy/nanoGPT, README: 4 layers, 128 wide, 64 characters of context, 2,000 steps give
a validation loss of 1.88 in about three minutes of a laptop; 6 layers, 384 wide, 256 characters,
5,000 steps give 1.4697 at best in about three minutes of an A100. Both are estimates on random
batches (20 of 12 rows, and 200 of 64); ours is the exact mean over the validation part. The 1.88
has a standard error of about 0.016 by the spread of windows, so the tolerance is 0.03.

A 5-gram model of the same text has 1.669 (the ladder of n-grams stands in the table): to be below
1.88 alone proves little.
"""


def get_study():
    """Returns the study."""
    return {
        "title": "shakespeare_char: nanoGPT's recipes",
        "question": "Are nanoGPT's validation losses reached by its recipes?",
        "paper": {
            "title": "nanoGPT",
            "url": "https://github.com/karpathy/nanoGPT",
            "place": "README",
        },
        "metrics": {
            "validation/loss": {
                "direction": "minimize",
                "at": "best",
                "protocol": "exact mean over all characters of tinyshakespeare's last tenth, in"
                " consecutive windows of the model's context",
                "unit": "nats a character",
                "tolerance": 0.03,
                "floors": {"uniform": 4.174, "5-gram (Witten-Bell)": 1.669},
            },
        },
        "rows": [
            {
                "name": "nanoGPT for a CPU, to the letter",
                "recipe": "configs/lm/shakespeare_char.py:nanogpt",
                "published": {"validation/loss": 1.88},
                "conditions": "step 2,000, estimated on 20 batches of 12",
                "one_sided": True,
                "seeds": 3,
            },
            {
                "name": "the same, initial weights of 0.06",
                "recipe": "configs/lm/shakespeare_char.py",
                "published": {"validation/loss": 1.88},
                "conditions": "nanoGPT's figure is for 0.02",
                "one_sided": True,
                "seeds": 3,
            },
            {
                "name": "nanoGPT for a GPU",
                "recipe": "configs/lm/shakespeare_char_full.py",
                "published": {"validation/loss": 1.4697},
                "conditions": "best of 5,000 steps, estimated on 200 batches of 64",
                "tolerance": 0.015,
                "one_sided": True,
                "seeds": 3,
            },
        ],
        "scales": {
            "smoke": {
                "cost": "a minute of two CPU cores.",
                "seeds": 1,
                "rows": ("nanoGPT for a CPU, to the letter",),
                "overrides": {
                    "run.steps": 10,
                    "run.batch_size": 4,
                    "run.log_every": 2,
                    "task.model.width": 16,
                    "evals.samples.number": 1,
                    "evals.samples.count": 20,
                },
            },
            "cpu": {
                "cost": "about 12 minutes of two CPU cores: six runs of two minutes (measured on"
                " two that had other work to do).",
                "rows": (
                    "nanoGPT for a CPU, to the letter",
                    "the same, initial weights of 0.06",
                ),
            },
            "full": {
                "cost": "a quarter of an hour of one A100 (three minutes a run by nanoGPT's"
                " README); some 17 hours a run on two CPU cores (estimated).",
                "rows": ("nanoGPT for a GPU",),
            },
        },
    }
