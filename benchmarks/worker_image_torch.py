"""Plain, good PyTorch of the same image models, data included; obeys lines of JSON.

Not imported by anything: `image_epoch.py` starts it with an interpreter that has PyTorch. Pictures
are one uint8 tensor in memory, shuffled by an index once an epoch: what a DataLoader costs in
addition is left out.
"""

import gzip
import itertools
import json
import resource
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


def mlp(*widths: int, last: nn.Module | None = None) -> nn.Sequential:
    """Dense layers with leaky ReLU between them."""
    layers: list[nn.Module] = []
    for i, (a, b) in enumerate(itertools.pairwise(widths)):
        layers.append(nn.Linear(a, b))
        if i < len(widths) - 2:
            layers.append(nn.LeakyReLU(0.2))
    return nn.Sequential(*layers, *([last] if last else []))


def dcgan_generator(latents: int = 100, width: int = 64) -> nn.Sequential:
    """PyTorch's example, 64x64."""
    layers: list[nn.Module] = [nn.ConvTranspose2d(latents, width * 8, 4, 1, 0, bias=False)]
    for a, b in ((8, 4), (4, 2), (2, 1)):
        layers += [nn.BatchNorm2d(width * a), nn.ReLU(True),
                   nn.ConvTranspose2d(width * a, width * b, 4, 2, 1, bias=False)]  # fmt: skip
    layers += [nn.BatchNorm2d(width), nn.ReLU(True),
               nn.ConvTranspose2d(width, 3, 4, 2, 1, bias=False), nn.Tanh()]  # fmt: skip
    return nn.Sequential(*layers)


def dcgan_discriminator(width: int = 64) -> nn.Sequential:
    """PyTorch's example, 64x64, without the last sigmoid."""
    layers: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, True)]
    for a, b in ((1, 2), (2, 4), (4, 8)):
        layers += [nn.Conv2d(width * a, width * b, 4, 2, 1, bias=False),
                   nn.BatchNorm2d(width * b), nn.LeakyReLU(0.2, True)]  # fmt: skip
    return nn.Sequential(*layers, nn.Conv2d(width * 8, 1, 4, 1, 0, bias=False), nn.Flatten())


class VAE(nn.Module):
    """784-H-L, Bernoulli."""

    def __init__(self, hidden: int, latents: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(784, hidden), nn.ReLU())
        self.posterior = nn.Linear(hidden, 2 * latents)
        self.decoder = mlp(latents, hidden, 784)
        self.decoder[1] = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, 784] in {0, 1} -> the mean negative bound."""
        mean, logvar = self.posterior(self.encoder(x)).chunk(2, dim=1)
        z = mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)
        nll = F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="none").sum(1)
        kl = -0.5 * (1 + logvar - mean**2 - logvar.exp()).sum(1)
        return (nll + kl).mean()


class Game:
    """A GAN's step: the discriminator's, then the generator's."""

    def __init__(self, told: dict, flat: bool) -> None:
        self.latents = 100
        if flat:
            self.generator = mlp(100, 256, 512, 784, last=nn.Tanh())
            self.discriminator = mlp(784, 512, 256, 1)
        else:
            self.generator, self.discriminator = dcgan_generator(), dcgan_discriminator()
        if told["channels_last"]:
            self.generator.to(memory_format=torch.channels_last)
            self.discriminator.to(memory_format=torch.channels_last)
        self.flat, self.bf16 = flat, told["dtype"] == "bfloat16"
        self.optimizers = [
            torch.optim.Adam(net.parameters(), lr=2e-4, betas=(0.5, 0.999), fused=told["fused"])
            for net in (self.generator, self.discriminator)
        ]
        if told["compile"]:
            self.generator = torch.compile(self.generator)
            self.discriminator = torch.compile(self.discriminator)

    def noise(self, size: int) -> torch.Tensor:
        """The latents."""
        return (
            torch.randn(size, self.latents) if self.flat else torch.randn(size, self.latents, 1, 1)
        )

    def step(self, x: torch.Tensor) -> float:
        """X in [-1, 1]."""
        size = len(x)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.bf16):
            with torch.no_grad():
                made = self.generator(self.noise(size))
            loss = F.softplus(-self.discriminator(x).float()).mean()
            loss = loss + F.softplus(self.discriminator(made).float()).mean()
        self.optimizers[1].zero_grad(set_to_none=True)
        loss.backward()
        self.optimizers[1].step()
        for p in self.discriminator.parameters():
            p.requires_grad_(False)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.bf16):
            made = self.generator(self.noise(size))
            fooled = F.softplus(-self.discriminator(made).float()).mean()
        self.optimizers[0].zero_grad(set_to_none=True)
        fooled.backward()
        self.optimizers[0].step()
        for p in self.discriminator.parameters():
            p.requires_grad_(True)
        return float(loss.detach())


class Bound:
    """A VAE's step."""

    def __init__(self, told: dict, hidden: int, latents: int) -> None:
        self.model = VAE(hidden, latents)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3, fused=told["fused"])
        self.run = torch.compile(self.model) if told["compile"] else self.model

    def step(self, x: torch.Tensor) -> float:
        """X in [-1, 1]; its bits are drawn anew each time."""
        loss = self.run(torch.bernoulli((x + 1) / 2))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())


def pictures(told: dict) -> torch.Tensor:
    """uint8 [N, ...]: MNIST's training part, or noise where there is no data to read."""
    if told["data"]:
        path = next(Path(told["data"]).glob("train-images*"))
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        return torch.from_numpy(np.frombuffer(raw, np.uint8, offset=16).copy()).reshape(-1, 784)
    return torch.randint(0, 256, (2000, 3, 64, 64), dtype=torch.uint8)


def main() -> None:
    """Builds what the first line names, then takes steps as asked."""
    told = json.loads(sys.stdin.readline())
    torch.manual_seed(0)
    torch.set_num_threads(told["threads"])
    if told["family"] == "vae":
        model: Game | Bound = Bound(told, told["hidden"], told["latents"])
    else:
        model = Game(told, flat=told["family"] == "mlp")
    data, place, order = pictures(told), 0, torch.empty(0, dtype=torch.int64)
    for line in sys.stdin:
        steps = json.loads(line)["steps"]
        begin = time.perf_counter()
        for _ in range(steps):
            if place + told["batch"] > len(order):
                order, place = torch.randperm(len(data)), 0
            x = data[order[place : place + told["batch"]]].float() / 127.5 - 1.0
            if told["channels_last"]:
                x = x.contiguous(memory_format=torch.channels_last)
            place += told["batch"]
            loss = model.step(x)
        seconds = time.perf_counter() - begin
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({"seconds": seconds, "loss": loss, "memory": memory}), flush=True)


if __name__ == "__main__":
    main()
