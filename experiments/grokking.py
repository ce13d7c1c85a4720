"""Grokking: addition modulo 97 is learnt by heart at once, and understood long after.

    aigc reproduce experiments/grokking.py --scale=cpu

Power et al. 2022 (arXiv:2201.02177): a small transformer (2 layers, 128 wide, 4 heads) that sees
half of the table of an operation modulo 97 is soon perfect on it while the other half stays at
chance, and only after many more steps becomes perfect there (figure 1); of all regularizers weight
decay helps generalization most (figure 2). AdamW, learning rate 1e-3, 10 steps of warm-up, weight
decay 1, batches of 512.

What must come out: with weight decay 1 the held-out half is understood, long after the other, and
sooner than without weight decay. All seeds and weight decays are one compiled program. The scale
`cpu` has 2,200 steps; a run that does not get there in these counts with its last step, so that its
delay is a lower bound. Half the width is no cheap substitute: it learns the trained half by heart
so slowly (99 % at step 2,000, one seed) that little delay is left.
"""

DECAYS = (0.0, 0.3, 1.0)


def get_study():
    """Returns the study."""
    rows = [
        {
            "name": f"weight decay {decay:g}",
            "recipe": "configs/lm/grokking.py",
            "published": None,
            "overrides": {"hyper.weight_decay": decay},
            "seeds": 5,
            "tags": {"decay": decay},
        }
        for decay in DECAYS
    ]
    return {
        "title": "Grokking: addition modulo 97",
        "question": "Does understanding come long after memory, and sooner with weight decay?",
        "paper": {
            "title": "Grokking: Generalization Beyond Overfitting on Small Algorithmic Datasets",
            "arxiv": "2201.02177",
            "place": "figures 1 and 2",
        },
        "metrics": {
            "validation/accuracy": {
                "direction": "maximize",
                "protocol": "share of right answers on the half of the table that is not trained"
                " on",
                "unit": "share",
                "floors": {"chance": 0.0103},
                "ceilings": {"all right": 1.0},
            },
            "train_exact/accuracy": {
                "direction": "maximize",
                "protocol": "the same on the trained half",
                "unit": "share",
            },
        },
        "rows": rows,
        "analysis": {
            "name": "delay",
            "train": "train_exact/accuracy",
            "validation": "validation/accuracy",
            "threshold": 0.99,
        },
        "claims": [
            {
                "says": "with weight decay 1 understanding comes after memory",
                "quantity": "delay: weight decay 1",
                "more_than": 0.0,
                "source": "figure 1",
            },
            {
                "says": "with weight decay 1 every seed understands",
                "quantity": "reached: weight decay 1",
                "about": 1.0,
                "tolerance": 0.1,
                "source": "figure 1",
            },
            {
                "says": "weight decay 1 makes it come sooner than none",
                "quantity": "understood: weight decay 1",
                "less_than": "understood: weight decay 0",
                "source": "figure 2",
            },
        ],
        "scales": {
            "smoke": {
                "cost": "a minute of two CPU cores.",
                "seeds": 1,
                "overrides": {
                    "task.model.width": 16,
                    "task.model.heads": 2,
                    "run.steps": 20,
                    "run.eval_every": 10,
                    "run.batch_size": 64,
                    "data.modulus": 23,
                },
            },
            "cpu": {
                "cost": "about 37 minutes of two CPU cores (estimated): 10 trials of 2,200 steps at"
                " 0.1 s.",
                "rows": ("weight decay 0", "weight decay 1"),
                "overrides": {
                    "run.steps": 2200,
                    "run.eval_every": 100,
                    "run.save_every": 550,
                },
            },
            "full": {
                "cost": "a quarter of an hour of one accelerator (estimated): 15 trials of 20,000"
                " steps.",
                "overrides": {"run.steps": 20_000},
            },
        },
    }
