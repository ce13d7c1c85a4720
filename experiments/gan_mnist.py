"""GANs of MNIST's digits, judged by a classifier: how near are they to real digits?

    aigc train configs/classifier/mnist.py --workdir=runs/mnist-classifier
    aigc reproduce experiments/gan_mnist.py --scale=cpu

There is no published score of these networks in the features of this classifier (and none that
would compare with it: the distance is the Fréchet distance of its 128 hidden features, and not
FID). What is held here: all ten classes are there, and DCGAN with InfoGAN's dense layers (Chen et
al. 2016, arXiv:1606.03657, appendix C.1) comes nearer than two perceptrons, and R1 brings those
nearer too. Each score stands
between noise and as many other real digits.
"""

ROWS = {
    "mlp": "configs/gan/mnist_mlp.py:judged",
    "mlp with R1": "configs/gan/mnist_mlp.py:r1",
    "dcgan": "configs/gan/mnist_dcgan.py:judged",
}
SAMPLES = "10,000 samples, against MNIST's 10,000 test images"


def get_study():
    """Returns the study."""
    return {
        "title": "GANs of MNIST's digits, by a classifier's features",
        "question": "How near are their samples to real digits?",
        "paper": {
            "title": "InfoGAN: Interpretable representation learning by information maximizing"
            " generative adversarial nets",
            "arxiv": "1606.03657",
            "place": "appendix C.1, the networks",
        },
        "metrics": {
            "classifier/cfd": {
                "direction": "minimize",
                "protocol": f"Fréchet distance of 128 features, {SAMPLES}",
                "unit": "squared units of the features",
            },
            "classes/covered": {
                "direction": "maximize",
                "protocol": "classes of ten with a fifth of an even share of 10,000 samples",
                "unit": "classes",
            },
            "classes/reverse_kl": {
                "direction": "minimize",
                "protocol": "of the samples' classes from even shares",
                "unit": "nats",
            },
            "classifier/precision": {
                "direction": "maximize",
                "protocol": f"improved precision, 3 neighbours, {SAMPLES}",
            },
            "classifier/recall": {
                "direction": "maximize",
                "protocol": f"improved recall, 3 neighbours, {SAMPLES}",
            },
            "classifier/coverage": {
                "direction": "maximize",
                "protocol": f"coverage, 5 neighbours, {SAMPLES}",
            },
        },
        "rows": [
            {"name": name, "recipe": recipe, "published": None, "seeds": 3}
            for name, recipe in ROWS.items()
        ],
        "analysis": {"name": "rows"},
        "claims": [
            {
                "says": "DCGAN comes nearer to real digits than two perceptrons",
                "quantity": "classifier/cfd: dcgan",
                "less_than": "classifier/cfd: mlp",
            },
            {
                "says": "R1 and a higher rate bring two perceptrons nearer to real digits",
                "quantity": "classifier/cfd: mlp with R1",
                "less_than": "classifier/cfd: mlp",
            },
            *(
                {
                    "says": f"{name} makes all ten classes",
                    "quantity": f"classes/covered: {name}",
                    "more_than": 9.5,
                }
                for name in ROWS
            ),
        ],
        "scales": {
            "smoke": {
                "cost": "two minutes of two CPU cores; needs MNIST and its classifier.",
                "seeds": 1,
                "overrides": {
                    "run.steps": 20,
                    "evals.quality.number": 1100,
                    "evals.classes.number": 500,
                },
            },
            "cpu": {
                "cost": "90 to 180 minutes of two CPU cores (20 to 50 a DCGAN without AVX-512,"
                " 7 with; 5 an MLP); needs MNIST and its classifier.",
            },
        },
    }
