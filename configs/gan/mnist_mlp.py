"""The classic GAN on MNIST: two multilayer perceptrons, Adam at 2e-4.

    aigc train configs/gan/mnist_mlp.py

    aigc train configs/classifier/mnist.py --workdir=runs/mnist-classifier
    aigc train configs/gan/mnist_mlp.py:judged      # and scored by that classifier at the end
    aigc train configs/gan/mnist_mlp.py:r1          # so too, with R1 and five times the rate

Generator 100-256-512-784 with tanh, discriminator 784-512-256-1, leaky ReLU of slope 0.2, the
non-saturating loss, batches of 64. `:r1` is the same pair and game with the penalty R1 (Mescheder
et al. 2018, arXiv:1801.04406) and Adam at 1e-3; its weight of 1 was the best of 0.1, 1 and 10 after
five epochs (cfd 54, 42, 69, one seed; without it, at 2e-4, 223). `:logistic` has two dense layers
each, 100-784-784 and 784-512-1, and gray values from a logistic function. `:encoder` has a network
that inverts the generator, and draws what it gives back; `:info` finds ten categories and two
numbers again, as InfoGAN on these digits does:

    aigc train configs/gan/mnist_mlp.py:info
    aigc encode runs/mnist_mlp-info --judge

Machine and time: two CPU cores, 7 ms a step, 3.5 minutes, 12 with other work. Expected of
`:judged`, three seeds: all ten classes, cfd 67.6 (54.7 to 80.6; real digits 1.4, noise 683),
precision 0.74, recall 0.69; `validation/loss` about 0.99; of `:r1` cfd 8.4 (7.6 to 9.2). See
experiments/results/gan_mnist. `:logistic` was not run, `:encoder` and `:info` only for 4,000 and
6,000 steps, one seed: real digits come back from the encoder as themselves, blurred; Q finds the
category of 99.5 % of 1,000 samples again, but of real digits it is not the class (k-means purity of
Q's codes 0.21; of pixels 0.48).

Source: Goodfellow et al. 2014 (arXiv:1406.2661) for the game; the sizes are those that tutorials
have settled on. There is no published score to compare with. The latents of `:info` are those of
Chen et al. 2016 (arXiv:1606.03657, appendix C.1), though all but the category are normal here.
"""

from ml_collections import ConfigDict

CLASSIFIER = "runs/mnist-classifier"  # a run of configs/classifier/mnist.py
JUDGES = {
    "quality": {"name": "image_quality", "extractor": "classifier", "weights": CLASSIFIER},
    "classes": {
        "name": "modes",
        "classifier": CLASSIFIER,
        "number": 10_000,
        "every": 1,
        "title": "classes",
    },
}

# Variant -> what it changes in the task, and in its model.
VARIANTS: dict[str, tuple[dict, dict]] = {
    "judged": ({"name": "gan"}, {}),
    "r1": ({"name": "gan", "penalties": ("r1",)}, {}),
    "logistic": (
        {"name": "gan"},
        {
            "generator_widths": (784,),
            "discriminator_widths": (512,),
            "generator_activation": "relu",
            "output": "logistic",
        },
    ),
    "encoder": ({"name": "assisted_gan", "auxiliaries": ("encoder",)}, {}),
    "info": (
        {"name": "assisted_gan", "auxiliaries": ("info",), "codes": 2, "categories": (10,)},
        {"latents": 74},
    ),
}


def get_config(arg: str | None = None) -> ConfigDict:
    """Returns the recipe; what it leaves out has the defaults of the code.

    Args:
      arg: None, or one of VARIANTS: "judged" to have a classifier score it, "r1" for that with the
        penalty, "logistic" for the smaller pair, "encoder" and "info" for a GAN with that helper.
    """
    if arg not in (None, *VARIANTS):
        raise ValueError(f"no variant {arg!r} of this recipe; there are {', '.join(VARIANTS)}")
    task, model = VARIANTS.get(arg or "", ({"name": "gan"}, {}))
    return ConfigDict(
        {
            "task": {**task, "model": {"name": "gan_mlp", "latents": 100, **model}},
            "data": {"name": "images", "path": "mnist"},
            "optim": {"name": "adam", "schedule": "constant", "ema": True},
            "hyper": {"lr": 1e-3 if arg == "r1" else 2e-4, "b1": 0.5, "ema_decay": 0.999},
            "evals": {
                "validation": {"name": "mean", "split": "validation"},
                "pictures": {"name": "pictures", "number": 80, "columns": 10},
                **(JUDGES if arg in ("judged", "r1") else {}),
                **({"latents": {"name": "latents"}} if arg == "encoder" else {}),
            },
            "run": {
                "steps": 23450,  # 25 epochs
                "batch_size": 64,
                "eval_every": 4690,
                "save_every": 4690,
                "best": "",
            },
        }
    )
