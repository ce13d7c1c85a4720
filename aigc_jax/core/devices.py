"""What accelerators can do, from what their makers publish. Plain numbers; nothing is measured.

FLOP/s are dense (no sparsity) products of bfloat16, and of float32 as JAX does them where nothing
is said: in TF32 on GPUs, in one pass of bfloat16 on TPUs (docs.jax.dev, "Matmul precision"). Bytes
are decimal. Where a maker gives a bandwidth both ways, it is halved here: all figures are one way,
per device.
"""

from typing import NamedTuple

from aigc_jax.errors import UserError, nearest


class Device(NamedTuple):
    """One device, as JAX counts them.

    Attributes:
      kind: a part of what JAX calls it (`Device.device_kind`).
      flops: dense bfloat16 FLOP/s. single: those of float32, as said above.
      memory: bytes. bandwidth: of its memory, bytes/s.
      group: how many are joined by fast links: a node of GPUs, a pod of TPUs.
      link: bytes/s that one device sends over the fast links, for a collective over one mesh axis.
        All of NVLink; of a torus one of its two or three dimensions.
      across: bytes/s that one device sends to another group.
      source: of the figures.
    """

    kind: str
    flops: float
    single: float
    memory: float
    bandwidth: float
    group: int
    link: float
    across: float
    source: str

    def peak(self, width: int) -> float:
        """FLOP/s of products of numbers of so many bytes: 2 or 4."""
        return self.flops if width == 2 else self.single


_GPU = (
    "NVIDIA's data sheets, as other pages quote them, of the {} SXM and of the DGX with 8 of them"
)
_TPU = "docs.cloud.google.com/tpu/docs/{}"

# What each figure rests on is in docs/scaling.md.
DEVICES = {
    "a100": Device("A100", 312e12, 156e12, 80e9, 2.039e12, 8, 300e9, 25e9, _GPU.format("A100")),
    "h100": Device("H100", 989e12, 494e12, 80e9, 3.35e12, 8, 450e9, 50e9, _GPU.format("H100")),
    "h200": Device("H200", 989e12, 494e12, 141e9, 4.8e12, 8, 450e9, 50e9, _GPU.format("H200")),
    "v4": Device("TPU v4", 275e12, 275e12, 32e9, 1.2e12, 4096, 100e9, 6.25e9, _TPU.format("v4")),
    "v5e": Device("TPU v5 lite", 197e12, 197e12, 16e9, 0.819e12, 256, 100e9, 3.125e9,
                  _TPU.format("v5e")),
    "v5p": Device("TPU v5p", 459e12, 459e12, 95e9, 2.765e12, 8960, 200e9, 6.25e9,
                  _TPU.format("v5p")),
    "v6e": Device("TPU v6 lite", 918e12, 918e12, 32e9, 1.638e12, 256, 200e9, 12.5e9,
                  _TPU.format("v6e")),
}  # fmt: skip


def find(name: str) -> Device:
    """Returns a device by its name in DEVICES.

    Raises:
      UserError: there is none of that name; the nearest one is said.
    """
    if name.lower() not in DEVICES:
        raise UserError(
            f"--target={name}: there is no such device.{nearest(name.lower(), DEVICES)} There are:"
            f" {', '.join(DEVICES)}."
        )
    return DEVICES[name.lower()]
