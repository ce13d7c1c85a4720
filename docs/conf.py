import re
from pathlib import Path

_root = Path(__file__).parent.parent
_init = (_root / "aigc_jax" / "__init__.py").read_text(encoding="utf-8")

project = "aigc_jax"
copyright = "the aigc_jax authors"
author = "the aigc_jax authors"
release = re.search(r'__version__ = "(.+)"', _init).group(1)

extensions = ["myst_parser"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"aigc_jax {release}"
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
