"""GANs on CIFAR-10 by FID: DCGAN and R3GAN.

    aigc reproduce experiments/cifar10_gans.py --scale=full \
        --config.evals.quality.weights=INCEPTION_WEIGHTS

Huang et al. 2024 (arXiv:2501.05441) report an FID of 1.96 for R3GAN on CIFAR-10. Radford et al.
2016 (arXiv:1511.06434) give no FID for DCGAN, so that row is ours alone. FID by Inception's weights
from a local file, 50,000 samples against the 50,000 training images, resized as in TensorFlow's
first code; another resizing or another number of samples gives another number.

Not run: needs an accelerator, CIFAR-10 (`aigc data`, from TFDS) and Inception's weights. R3GAN's
network, game, schedules and augmentation are those of the paper and of its authors' code; what
still differs: its length (100 million images; their code sets no end and is stopped by hand) and
the FID, which is our own (`docs/judging_images.md`). DCGAN's paper has no network for 32x32, so
ours leaves out the size above.
"""

METRIC = "inception/fid"


def get_study():
    """Returns the study."""
    common = {
        "evals.quality.name": "image_quality",
        "evals.quality.extractor": "inception",
        "evals.quality.split": "train",
        "evals.quality.number": 50_000,
        "evals.quality.scores": ("frechet",),
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
                "recipe": "configs/gan/cifar10_dcgan.py",
                "published": None,
                "conditions": "its paper has no FID",
                "overrides": common,
            },
            {
                "name": "R3GAN",
                "recipe": "configs/gan/cifar10_r3gan.py",
                "published": {METRIC: 1.96},
                "conditions": "the paper's network, conditional on the class",
                "overrides": common,
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
