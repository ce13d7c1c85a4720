"""What every test needs, set before anything imports JAX: the environment alone.

Nothing heavy is imported here: the tests of configs and reports run without JAX.
"""

import os
import shutil
import tempfile
from importlib import metadata

import pytest

_FOLDER = tempfile.mkdtemp(prefix="aigc-tests-")
# Commands that the tests start inherit these. Caches of the user's own are left alone, and nothing
# that they hold can make a test pass.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
# Compiling is most of what the tests wait for. LLVM's optimizations and XLA's newer emitter of
# fused loops are three quarters of that, and change the last bits of a number at most; splitting
# a program over threads gains nothing where each core has a test process of its own. An empty
# XLA_FLAGS tests what users run.
_flags = ["--xla_backend_optimization_level=0", "--xla_cpu_parallel_codegen_split_count=1"]
if metadata.version("jaxlib").startswith("0.10."):  # later ones end a process that names it
    _flags.append("--xla_cpu_use_fusion_emitters=false")
os.environ.setdefault("XLA_FLAGS", " ".join(_flags))
os.environ["XDG_CACHE_HOME"] = os.path.join(_FOLDER, "cache")
os.environ["XDG_DATA_HOME"] = os.path.join(_FOLDER, "share")
# Programs that several tests compile are compiled once (a small model's init takes seconds).
os.environ["JAX_COMPILATION_CACHE_DIR"] = os.path.join(_FOLDER, "xla")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
os.environ["AIGC_CACHE"] = os.path.join(_FOLDER, "aigc")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Takes the caches away again."""
    shutil.rmtree(_FOLDER, ignore_errors=True)
