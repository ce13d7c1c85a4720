"""Steps of image models, data included, against PyTorch, taking turns on one machine.

    python benchmarks/image_epoch.py --family=mlp --mnist=FOLDER --torch-python=/path/to/python

Families: `mlp`, the MLP GAN of `configs/gan/mnist_mlp.py`; `vae`, 784-400-20; `dcgan`, 64x64 in
batches of 64 on pictures of noise. Prints a table in Markdown: milliseconds a step, the ratio to
PyTorch's eager step (median of the ratios of each round, and their quartiles), peak memory.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import turns
from turns import Worker

RECIPES = {
    "mlp": "configs/gan/mnist_mlp.py",
    "vae": "configs/vae/mnist.py:400",
    "dcgan": "configs/gan/folder_dcgan.py",
}
BATCH = {"mlp": 64, "vae": 128, "dcgan": 64}


def noise(folder: Path) -> None:
    """Writes 2,000 pictures of 64x64 random pixels, labels none."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for i in range(2000):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(folder / f"{i}.png")


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", choices=RECIPES, required=True)
    parser.add_argument("--mnist", type=Path, help="folder with the idx files")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=2.0, help="of one turn, about")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--torch-python", default=sys.executable)
    parser.add_argument("--setting", action="append", default=[], help="--config.a.b=v, ours")
    args = parser.parse_args()
    if args.family != "dcgan" and not args.mnist:
        parser.error("--mnist is needed")

    with tempfile.TemporaryDirectory() as folder:
        if args.family == "dcgan":
            noise(Path(folder))
        path = folder if args.family == "dcgan" else str(args.mnist)
        told: dict[str, Any] = {
            "family": args.family, "data": "" if args.family == "dcgan" else path,
            "batch": BATCH[args.family], "threads": args.threads, "hidden": 400, "latents": 20,
            "dtype": "float32", "compile": False, "fused": False, "channels_last": False,
        }  # fmt: skip
        settings = [f"--config.data.path={path}", f"--config.run.batch_size={BATCH[args.family]}"]
        settings += [*args.setting]
        last = args.family == "dcgan"
        everyone = {
            "PyTorch eager": Worker(args.torch_python, "worker_image_torch.py", told),
            "PyTorch, fused Adam" + (", channels last" if last else ""): Worker(
                args.torch_python, "worker_image_torch.py",
                {**told, "fused": True, "channels_last": last},
            ),
            "aigc_jax": Worker(
                sys.executable, "worker_image_jax.py",
                {"recipe": RECIPES[args.family], "settings": settings},
            ),
        }  # fmt: skip
        steps, answers = turns.take_turns(
            everyone, rounds=args.rounds, seconds=args.seconds, warm=3
        )
        print(f"{args.family}: {args.rounds} rounds of {steps} steps of {BATCH[args.family]},"
              f" {args.threads} threads\n")  # fmt: skip
        print("| | ms a step | times PyTorch eager (quartiles) | peak memory |")
        print("|---|---|---|---|")
        for name, rows in answers.items():
            low, middle, high = turns.ratios(answers, name)
            print(f"| {name} | {turns.median_ms(rows, steps):.2f} | {middle:.2f} ({low:.2f} to"
                  f" {high:.2f}) | {rows[-1]['memory'] / 2**20:.0f} MiB |")  # fmt: skip


if __name__ == "__main__":
    main()
