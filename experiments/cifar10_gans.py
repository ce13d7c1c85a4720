"""GANs on CIFAR-10 by FID: DCGAN and R3GAN.

    aigc reproduce experiments/cifar10_gans.py --scale=full \
        --config.evals.quality.weights=INCEPTION_WEIGHTS

Huang et al. 2024 (arXiv:2501.05441) report an FID of 1.96 for R3GAN on CIFAR-10. Radford et al.
2016 (arXiv:1511.06434) give no FID for DCGAN, so that row is ours alone. FID by Inception's weights
from a local file, 50,000 samples against the 50,000 training images, resized as in TensorFlow's
first code; another resizing or another number of samples gives another number.

Not run: needs an accelerator, CIFAR-10 (`aigc data`, from TFDS) and Inception's weights. The
network `models/r3gan.py` is smaller than the paper's and resamples in a simpler way, the batch is
smaller, and there is neither their schedule of penalties and rates nor their augmentation: a miss
is to be expected until these are there.
"""

METRIC = "inception/fid"


def get_study():
    """Returns the study."""
    common = {
        "data.path": "cifar10",
        "data.size": 32,
        "evals.quality.name": "image_quality",
        "evals.quality.extractor": "inception",
        "evals.quality.split": "train",
        "evals.quality.number": 50_000,
        "evals.quality.scores": ("frechet",),
        "optim.ema": True,
        "hyper.ema_decay": 0.999,
        "run.eval_every": 0,
    }
    return {
        "title": "GANs on CIFAR-10",
        "question": "Are the published FIDs reached?",
        "paper": {
            "title": "The GAN is dead; long live the GAN! A Modern Baseline GAN",
            "arxiv": "2501.05441",
            "place": "its table for CIFAR-10",
        },
        "metrics": {
            METRIC: {
                "direction": "minimize",
                "protocol": "FID, 50,000 samples against 50,000 training images, Inception's"
                " published weights, resized as tf1",
                "tolerance": 0.1,
            },
        },
        "rows": [
            {
                "name": "DCGAN",
                "recipe": "configs/gan/folder_dcgan.py",
                "published": None,
                "conditions": "its paper has no FID",
                "overrides": {**common, "run.steps": 100_000},
            },
            {
                "name": "R3GAN",
                "recipe": "configs/gan/folder_dcgan.py",
                "published": {METRIC: 1.96},
                "conditions": "the paper's network, conditional on the class",
                "overrides": {
                    **common,
                    "task.model.name": "r3gan",
                    "task.loss": "relativistic_pairing",
                    "task.penalties": ("r1", "r2"),
                    "run.steps": 200_000,
                    "run.batch_size": 256,
                },
            },
        ],
        "scales": {
            "smoke": {
                "cost": "some minutes of two CPU cores; needs CIFAR-10 and Inception's weights.",
                "rows": ("DCGAN",),
                "overrides": {"run.steps": 10, "run.batch_size": 8, "evals.quality.number": 2048},
            },
            "full": {
                "cost": "some hours of one accelerator for DCGAN, some days for R3GAN (estimated).",
            },
        },
        "notes": "Not run here: no accelerator, no Inception weights.",
    }
