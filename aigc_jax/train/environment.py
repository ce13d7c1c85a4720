"""Where a run took place: code, packages, devices, command."""

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

import aigc_jax

_PACKAGES = (
    "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "ml-collections", "numpy",
    "tensorflow-datasets", "tokenizers",
)  # fmt: skip
_FLAGS = ("XLA_FLAGS", "JAX_PLATFORMS", "JAX_ENABLE_X64", "LIBTPU_INIT_ARGS", "OMP_NUM_THREADS")


def environment() -> dict[str, Any]:
    """Returns what a reader needs to make the run again: JSON-ready."""
    device = jax.devices()[0]
    return {
        "aigc_jax": aigc_jax.__version__,
        "git": git(),
        "command": sys.argv,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "devices": {"kind": device.device_kind, "platform": device.platform,
                    "count": jax.device_count(), "hosts": jax.process_count()},
        "flags": {name: os.environ[name] for name in _FLAGS if name in os.environ},
    }  # fmt: skip


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor()


def git() -> dict[str, Any] | None:
    """The commit of the code that runs and what differs from it; None outside a checkout."""
    home = Path(aigc_jax.__file__).parent.parent

    def ask(*words: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(home), *words], capture_output=True, text=True, timeout=10
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout if done.returncode == 0 else None

    if ask("ls-files", "--error-unmatch", "aigc_jax/__init__.py") is None:
        return None  # installed into some folder that happens to lie in another checkout
    commit, diff = ask("rev-parse", "HEAD"), ask("diff", "HEAD")
    return {"commit": (commit or "").strip() or None, "dirty": bool(diff), "diff": diff or ""}
