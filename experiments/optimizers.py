"""Optimizers at equal training FLOPs, each at its own best learning rate.

    aigc reproduce experiments/optimizers.py --scale=cpu --config.data.path=tiny_shakespeare

AdamW against four that claim to need fewer steps: Lion (Chen et al. 2023, arXiv:2302.06675), Muon
(Jordan et al. 2024, kellerjordan.github.io/posts/muon), Sophia (Liu et al. 2023, arXiv:2305.14342)
and schedule-free AdamW (Defazio et al. 2024, arXiv:2405.15682). Their claims are about other
models, longer runs and other data; what is judged here is only whether each beats AdamW on the
characters of tinyshakespeare with a transformer of two layers, 64 wide.

FLOPs are those of the matrix products in the compiled step, the optimizer's own included (`aigc
plan`): 5.477e8 a step for AdamW, Lion and schedule-free AdamW; 6.945e8 for Muon, whose
Newton-Schulz iterations are dear at this width; 6.024e8 for Sophia, whose estimate of the curvature
costs one more pass at every tenth step. So 450 steps of AdamW are 355 of Muon and 409 of Sophia.

Each has four learning rates, a factor of about three apart, of which the best by the mean over
seeds counts; all are in the table. If the best lies at an end of the grid, the grid is too narrow
and the row says less than it should. No weight decay; the norm of the gradient is clipped at 1 (but
for Sophia, which clips its steps); a cosine to 5 % for all but the schedule-free one.
"""

BUDGET = 450 * 5.477e8
MUON_RULES = (
    ("block.*kernel$", {"label": "matrices", "lr": 5.0}),
    ("(bias|scale)$", {"label": "vectors", "name": "adamw"}),
    (".*", {"label": "embeddings", "name": "adamw"}),
)
# name: (FLOPs a step, settings, learning rates, the paper)
OPTIMIZERS = {
    "AdamW": (5.477e8, {}, (1e-3, 3e-3, 1e-2, 3e-2), ""),
    "Lion": (
        5.477e8,
        {"optim.name": "lion", "hyper.b2": 0.99},
        (1e-4, 3e-4, 1e-3, 3e-3),
        "arXiv:2302.06675",
    ),
    "Muon": (
        6.945e8,
        {"optim.name": "muon", "optim.rules": MUON_RULES},
        (1e-3, 3e-3, 1e-2, 3e-2),
        "kellerjordan.github.io/posts/muon",
    ),
    "Sophia": (
        6.024e8,
        {"optim.name": "sophia", "hyper.b1": 0.965, "hyper.b2": 0.99, "hyper.clip_norm": 0.0},
        (3e-4, 1e-3, 3e-3, 1e-2),
        "arXiv:2305.14342",
    ),
    "schedule-free AdamW": (
        5.477e8,
        {"optim.name": "schedule_free_adamw", "optim.schedule": "constant"},
        (3e-3, 1e-2, 3e-2, 1e-1),
        "arXiv:2405.15682",
    ),
}


def get_study():
    """Returns the study."""
    rows = [
        {
            "name": name,
            "recipe": "configs/lm/tiny_char.py",
            "published": None,
            "overrides": {
                "task.model.init_std": 0.125,
                **settings,
                "run.steps": round(BUDGET / flops),
                "run.eval_every": 0,
                "run.save_every": 0,
            },
            "tune": {"hyper.lr": rates},
            "seeds": 3,
        }
        for name, (flops, settings, rates, _) in OPTIMIZERS.items()
    ]
    return {
        "title": "Optimizers at equal FLOPs, each at its own learning rate",
        "question": "Which of them ends lower than AdamW?",
        "paper": {
            "title": "Muon: An optimizer for hidden layers in neural networks, and the papers of"
            " the rows",
            "url": "https://kellerjordan.github.io/posts/muon/",
        },
        "metrics": {
            "validation/loss": {
                "direction": "minimize",
                "protocol": "exact mean over all characters of tinyshakespeare's last tenth, in"
                " consecutive windows of 64",
                "unit": "nats a character",
                "floors": {"uniform": 4.174, "5-gram (Witten-Bell)": 1.669},
            },
        },
        "rows": rows,
        "analysis": {"name": "rows"},
        "claims": [
            {
                "says": f"{name} ends lower than AdamW",
                "quantity": f"validation/loss: {name}",
                "less_than": "validation/loss: AdamW",
                "source": source,
            }
            for name, (_, _, _, source) in OPTIMIZERS.items()
            if source
        ],
        "scales": {
            "smoke": {
                "cost": "a minute or two of two CPU cores.",
                "seeds": 1,
                "values": {"hyper.lr": (1e-3,)},
                "overrides": {
                    "run.steps": 10,
                    "run.batch_size": 4,
                    "task.model.width": 16,
                    "hyper.warmup": 2.0,
                },
            },
            "cpu": {
                "cost": "about 7 minutes of two CPU cores (estimated): 60 trials of 355 to 450"
                " steps.",
            },
        },
    }
