"""A small stand-in for the rooms, so that the tests of configs hold whatever the rooms become."""

from pathlib import Path

from aigc_jax.core.layout import FIXED

# Where a fixed section's signature stands is the package's own business: follow it.
FIXED_FILES = {section: f"{room}/{name}.py" for section, (room, name, _) in FIXED.items()}

FILES = {
    "tasks/lm.py": """
HYPER = {"z_loss": 0.0}

def make(spec: Any, optimizer: Any, model: dict[str, Any], *, smoothing: float = 0.0,
         kind: Literal["causal", "masked"] = "causal") -> Any:
    raise RuntimeError("never called")
""",
    "tasks/gan.py": """
import jax  # never imported here: the signature is read, not run

HYPER = {"penalty": 10, "lr": 2e-4}

def make(*, spec: Any, generator: nn.Module, discriminator: "nn.Module", updates: int = 1) -> Any:
    raise RuntimeError("never called")
""",
    "models/gpt.py": """
class GPT(nn.Module):
    vocab_size: int
    width: int = 8
    dropout: float = 0
    bias: bool = False
    dims: tuple[int, ...] = (1, 2)
    window: int | None = None
    cutoff: float = 1e9

    scale = 3
    limit: ClassVar[int] = 4

make = GPT
""",
    "models/mlp.py": "def make(*, hidden: int = 4, extra: dict = {}) -> Any: ...\n",
    "models/parts.py": "def helper(x: int) -> int: ...\n",
    "data/text.py": (
        "def make(*, batch_size: int, seed: int, path: str = 'plays', documents: str | None = None)"
        " -> Any: ...\n"
    ),
    "evals/mean.py": "def make(spec: Any, *, split: str = 'validation') -> Any: ...\n",
    FIXED_FILES["optim"]: """
HYPER: dict[str, float] = {"lr": 1e-3, "decay": 0.0}

def make(steps: int, *, name: str = "adamw", rules: tuple = ((".*", {"lr": 1.0}),)) -> Any: ...
""",
    FIXED_FILES["run"]: """
class Settings(NamedTuple):
    steps: int = 2000
    batch_size: int = 12
    seed: int = 0
    debug: bool = False
""",
    FIXED_FILES["mesh"]: (
        "def make(devices: Any, *, axes: dict[str, int] = {'data': -1}, precision: str = 'float32')"
        " -> Any: ...\n"
    ),
}

RECIPE = """from ml_collections import ConfigDict


def get_config(arg=None):
    return ConfigDict({
        "task": {"name": "lm", "model": {"name": "gpt", "width": 16}},
        "data": {"name": "text"},
        "evals": {"loss": {"name": "mean"}},
        "hyper": {"lr": 1},
    })
"""


def write(folder: Path, files: dict[str, str]) -> None:
    """Writes files, given by their paths under `folder`."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
