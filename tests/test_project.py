"""The files around the code: the locks, the declared dependencies, the README and its links."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ("3.11", "3.12", "3.13")
LOCKS = {"requirements.lock": (), "requirements-dev.lock": ("dev", "docs")}
# Imported under another name than they are installed by.
MODULES = {
    "importlib-resources": "importlib_resources",
    "ml-collections": "ml_collections",
    "orbax-checkpoint": "orbax",
    "pillow": "PIL",
    "scikit-learn": "sklearn",
    "tensorboardx": "tensorboardX",
    "tensorflow-datasets": "tensorflow_datasets",
    "array-record": "array_record",
}
# Declared for the sake of another package: see the comments in pyproject.toml.
ONLY_FOR_OTHERS = {"importlib-resources", "pillow", "array-record", "flatbuffers"}


def _project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def _entries(name: str) -> list[tuple[str, str, Marker | None, frozenset[str]]]:
    """(package, version, marker, hashes) of each entry of a lock."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / name).read_text(encoding="utf-8"), flags=re.MULTILINE)
    found = []
    for entry in text.replace("\\\n", " ").splitlines():
        head, *hashes = entry.split("--hash=")
        requirement = Requirement(head.strip())
        (pin,) = requirement.specifier
        assert pin.operator == "==", f"{name}: {head} is not pinned"
        found.append(
            (
                canonicalize_name(requirement.name),
                pin.version,
                requirement.marker,
                frozenset(h.strip() for h in hashes),
            )
        )
    assert found, f"{name} is empty"
    return found


def _pins(name: str, python: str) -> dict[str, str]:
    environment = {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": "x86_64",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }
    pins: dict[str, str] = {}
    for package, version, marker, _ in _entries(name):
        if marker is None or marker.evaluate(environment):
            assert package not in pins, f"{name}: two versions of {package} on Python {python}"
            pins[package] = version
    return pins


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("lock", LOCKS)
def test_lock_holds_what_pyproject_asks_for(lock: str, python: str) -> None:
    project = _project()
    wanted = [*project["dependencies"]]
    for extra in LOCKS[lock]:
        wanted += project["optional-dependencies"][extra]
    pins = _pins(lock, python)
    for text in wanted:
        requirement = Requirement(text)
        version = pins.get(canonicalize_name(requirement.name))
        assert version is not None, f"{lock} lacks {requirement.name}: make the lock anew"
        assert requirement.specifier.contains(version, prereleases=True), (
            f"{lock} has {requirement.name} {version}, pyproject.toml asks for {requirement}"
        )


def test_dev_lock_contains_the_core_lock() -> None:
    core, dev = set(_entries("requirements.lock")), set(_entries("requirements-dev.lock"))
    missing = sorted(f"{name}=={version}" for name, version, *_ in core - dev)
    assert not missing, f"requirements-dev.lock differs from requirements.lock in {missing}"


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_is_hashed_and_names_no_index(lock: str) -> None:
    for name, version, _, hashes in _entries(lock):
        assert hashes, f"{lock}: {name}=={version} has no hash"
    text = (ROOT / lock).read_text(encoding="utf-8")
    assert "://" not in text
    assert "--index" not in text and "--find-links" not in text and "--extra-index" not in text


def _imported() -> dict[str, str]:
    """Top-level modules of others that the package imports, with one place of each."""
    places: dict[str, str] = {}
    for path in sorted((ROOT / "aigc_jax").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            for name in names:
                top = name.split(".")[0]
                if top not in sys.stdlib_module_names and top != "aigc_jax":
                    places.setdefault(top, f"{path.relative_to(ROOT)}:{node.lineno}")
    return places


def _modules(requirements: list[str]) -> dict[str, str]:
    names = [canonicalize_name(Requirement(text).name) for text in requirements]
    return {MODULES.get(name, name.replace("-", "_")): name for name in names}


def test_every_import_is_declared() -> None:
    project = _project()
    core = _modules(project["dependencies"])
    extras = _modules([r for group in project["optional-dependencies"].values() for r in group])
    for module, place in _imported().items():
        # jaxlib comes with jax, absl with ml_collections; both are pinned by them.
        known = module in core or module in extras or module in {"jaxlib", "absl"}
        assert known, f"{place} imports {module}, which pyproject.toml does not declare"


def test_every_core_dependency_is_imported() -> None:
    imported = _imported()
    for module, package in _modules(_project()["dependencies"]).items():
        if package not in ONLY_FOR_OTHERS:
            assert module in imported, f"nothing imports {module}: take {package} out of the core"


@pytest.mark.parametrize("name", ["train", "test"])
def test_readme_block_is_one_command(name: str) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.findall(rf"<!-- command: {name} -->\n```sh\n(.*?)\n```", text, flags=re.DOTALL)
    assert len(found) == 1, f"README.md should have one block marked 'command: {name}'"
    lines = found[0].splitlines()
    # Otherwise a shell goes on with the next line after one that failed.
    assert all(line.endswith("&&") for line in lines[:-1]), lines


def test_links_lead_somewhere() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    assert len(pages) > 8
    for page in pages:
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
            if "://" not in target:
                place = f"{page.relative_to(ROOT)} links to {target}, which is not there"
                assert (page.parent / target).exists(), place
