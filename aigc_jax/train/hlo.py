"""A compiled program's text as instructions: enough to ask who uses what, and how often it runs."""

import re
from collections import Counter
from typing import NamedTuple

_HEADER = re.compile(r"^(ENTRY\s+)?%?([\w.\-]+)\s*\(.*\)\s*->.*\{\s*$")
_INSTRUCTION = re.compile(r"^\s*(ROOT\s+)?%?([\w.\-]+) = (.*)$")
_OPCODE = re.compile(r"([a-z][\w\-]*)\(")
_NAME = re.compile(r"%([\w.\-]+)")
_ARRAY = re.compile(r"\b(pred|token|[a-z]+\d+(?:e\d+m\d+\w*)?)\[([\d,]*)\]")
_COMMENT = re.compile(r"/\*.*?\*/")
_BITS = re.compile(r"[a-z]+(\d+)")
_TURNS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
# What nothing is started for: names of memory, and what only holds others.
_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "while", "call",
    "conditional", "opt-barrier", "partition-id", "replica-id", "domain",
}  # fmt: skip


class Instruction(NamedTuple):
    """One line. shapes: (dtype, dimensions) of each array that it gives. rest: its attributes."""

    name: str
    opcode: str
    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    operands: tuple[str, ...]
    rest: str
    root: bool


class Computation(NamedTuple):
    """The instructions of a computation, by name, in order."""

    name: str
    instructions: dict[str, Instruction]

    def users(self, name: str) -> list[Instruction]:
        """Returns the instructions that read one."""
        return [i for i in self.instructions.values() if name in i.operands]


class Module(NamedTuple):
    """All computations of a program. entry: the name of the one that it begins with."""

    computations: dict[str, Computation]
    entry: str


def size(dtype: str, dims: tuple[int, ...]) -> float:
    """Returns the bytes of an array."""
    count = 1
    for dim in dims:
        count *= dim
    if dtype == "pred":
        return count
    found = _BITS.match(dtype)
    return count * int(found[1]) / 8 if found else 0.0


def parse(text: str) -> Module:
    """Reads the text of `jax.stages.Compiled.as_text()`."""
    computations: dict[str, Computation] = {}
    entry, current = "", None
    for raw in text.splitlines():
        line = _COMMENT.sub("", raw)
        header = _HEADER.match(line)
        if header and " = " not in line.split("->")[0]:
            current = Computation(header[2], {})
            computations[current.name] = current
            entry = current.name if header[1] else entry
        elif current is not None and (found := _INSTRUCTION.match(line)):
            one = _instruction(bool(found[1]), found[2], found[3])
            if one is not None:
                current.instructions[one.name] = one
    return Module(computations, entry)


def _instruction(root: bool, name: str, text: str) -> Instruction | None:
    shape, rest = _balanced(text) if text.startswith("(") else _word(text)
    opcode = _OPCODE.match(rest.strip())
    if opcode is None:
        return None
    operands, after = _balanced(rest.strip()[opcode.end() - 1 :])
    shapes = tuple(
        (dtype, tuple(int(d) for d in dims.split(",") if d))
        for dtype, dims in _ARRAY.findall(shape)
    )
    if opcode[1] in ("parameter", "constant"):
        return Instruction(name, opcode[1], shapes, (), operands + after, root)
    return Instruction(name, opcode[1], shapes, tuple(_NAME.findall(operands)), after, root)


def _word(text: str) -> tuple[str, str]:
    first, _, rest = text.partition(" ")
    return first, rest


def _balanced(text: str) -> tuple[str, str]:
    """Splits after the bracket that closes the first one."""
    depth = 0
    for i, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return text[: i + 1], text[i + 1 :]
    return text, ""


def called(instruction: Instruction) -> list[str]:
    """Returns the names of the computations that an instruction runs."""
    found = re.findall(r"(?:calls|to_apply|body|true_computation|false_computation)=%?([\w.\-]+)",
                       instruction.rest)  # fmt: skip
    branches = re.search(r"branch_computations=\{([^}]*)\}", instruction.rest)
    return found + (re.findall(r"%?([\w.\-]+)", branches[1]) if branches else [])


def turns(module: Module, loop: Instruction) -> int:
    """Returns how often a `while` goes round; 0 where that is not known before it runs."""
    if known := _TURNS.search(loop.rest):
        return int(known[1])
    condition = re.search(r"condition=%?([\w.\-]+)", loop.rest)
    if condition is None or condition[1] not in module.computations:
        return 0
    # A loop that counts up to a constant compares with it; one that does not has none.
    bounds = [
        int(number[1])
        for one in module.computations[condition[1]].instructions.values()
        if one.opcode == "constant" and (number := re.match(r"\((\d+)\)", one.rest))
    ]
    return bounds[0] if len(bounds) == 1 else 0


def launched(module: Module, name: str = "", times: int = 1) -> Counter[str]:
    """Counts what a program starts, by opcode: fusions, products, copies, calls of a library.

    Each is a kernel on an accelerator, at least. What is in a loop counts as often as the loop
    turns (once, where that is not known before it runs); of branches the longest counts.

    Args:
      name: of the computation; "" for the one that the program begins with.
      times: how often it runs.
    """
    found: Counter[str] = Counter()
    for one in module.computations[name or module.entry].instructions.values():
        if one.opcode == "while":
            for body in re.findall(r"body=%?([\w.\-]+)", one.rest):
                found += launched(module, body, times * max(1, turns(module, one)))
        elif one.opcode == "conditional":
            # One of them runs; the one with the most is counted.
            branches = [launched(module, branch, times) for branch in called(one)]
            if branches:
                sizes = [sum(branch.values()) for branch in branches]
                found += branches[sizes.index(max(sizes))]
        elif one.opcode == "call":
            for inner in called(one):
                found += launched(module, inner, times)
        elif one.opcode not in _FREE and not one.opcode.endswith("-done"):
            found[one.opcode] += times
    return found
