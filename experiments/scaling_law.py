"""A scaling law at tiny scale: the loss against parameters and training tokens.

    aigc reproduce experiments/scaling_law.py --scale=cpu --config.data.path=tiny_shakespeare

Kaplan et al. 2020 (arXiv:2001.08361) find L(N) ~ N^-0.076 and L(D) ~ D^-0.095 (equations 1.1 and
1.2); Hoffmann et al. 2022 (arXiv:2203.15556) fit L(N, D) = E + A / N^alpha + B / D^beta with alpha
0.34 and beta 0.28 (equation 2 and approach 3). Both have web text in sub-words and millions to
billions of parameters. Here are characters of one author, 6 thousand to 221 thousand weights in the
blocks, and 0.1 to 1.2 million training characters of a text of one million, so that the longest
runs see parts of it twice: the exponents are not expected to be theirs, and the verdict says
whether they happen to be. What must come out is that the loss falls as a power of both.

Each (width, tokens) is a training run of its own, with a schedule of its own length (Hoffmann et
al., section 3.1: a schedule that is longer than the run flatters long runs), and with the better of
two learning rates. N counts the products' weights in the blocks (`sweep/scaling.py`).
"""

WIDTHS = (16, 32, 64, 96)
STEPS = (125, 250, 500, 1000)
RATES = (4e-3, 1.2e-2)


def get_study():
    """Returns the study."""
    rows = [
        {
            "name": f"{width} wide, {steps} steps",
            "recipe": "configs/lm/tiny_char.py",
            "published": None,
            "overrides": {
                "task.model.width": width,
                "task.model.init_std": round(width**-0.5, 4),
                "run.steps": steps,
                "run.eval_every": 0,
                "run.save_every": 0,
                "hyper.warmup": 0.05 * steps,
            },
            "tune": {"hyper.lr": RATES},
            "seeds": 2,
            "tags": {"width": width, "steps": steps},
            "scales": {"smoke": {"run.steps": max(steps // 25, 2), "hyper.warmup": 1.0}},
        }
        for width in WIDTHS
        for steps in STEPS
    ]
    return {
        "title": "A scaling law at tiny scale",
        "question": "Does the loss fall as a power of parameters and of training tokens?",
        "paper": {
            "title": "Training Compute-Optimal Large Language Models (and Scaling Laws for Neural"
            " Language Models, arXiv:2001.08361)",
            "arxiv": "2203.15556",
            "place": "equation 2, approach 3",
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
        "analysis": {"name": "scaling_law"},
        "claims": [
            {
                "says": "the loss falls with the parameters: alpha_N above 0",
                "quantity": "alpha_N",
                "more_than": 0.0,
                "source": "arXiv:2001.08361, equation 1.1",
            },
            {
                "says": "the loss falls with the tokens: alpha_D above 0",
                "quantity": "alpha_D",
                "more_than": 0.0,
                "source": "arXiv:2001.08361, equation 1.2",
            },
            {
                "says": "alpha_N is 0.076",
                "quantity": "alpha_N",
                "about": 0.076,
                "tolerance": 0.01,
                "source": "arXiv:2001.08361, equation 1.1; web text",
            },
            {
                "says": "alpha_D is 0.095",
                "quantity": "alpha_D",
                "about": 0.095,
                "tolerance": 0.01,
                "source": "arXiv:2001.08361, equation 1.2; web text",
            },
            {
                "says": "alpha is 0.34",
                "quantity": "alpha",
                "about": 0.34,
                "tolerance": 0.05,
                "source": "arXiv:2203.15556, approach 3; web text",
            },
            {
                "says": "beta is 0.28",
                "quantity": "beta",
                "about": 0.28,
                "tolerance": 0.05,
                "source": "arXiv:2203.15556, approach 3; web text",
            },
        ],
        "scales": {
            "smoke": {
                "cost": "a minute of two CPU cores.",
                "seeds": 1,
                "rows": tuple(f"{w} wide, {s} steps" for w in WIDTHS[:3] for s in STEPS[:3]),
                "values": {"hyper.lr": RATES[:1]},
                "overrides": {"run.batch_size": 4},
            },
            "cpu": {
                "cost": "about 8 minutes of two CPU cores (estimated): 64 trials.",
            },
        },
    }
