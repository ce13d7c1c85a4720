"""Plain tables for a terminal or a pipe."""

from collections.abc import Sequence

_WIDEST = 40  # columns of one cell; a longer value ends in an ellipsis


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns aligned columns, two spaces apart, under a ruled head.

    A column of numbers stands to the right, any other to the left. Line breaks in a cell become
    spaces.
    """
    cells = [[_short(cell) for cell in row] for row in [head, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    right = [
        all(_numeric(row[i]) for row in cells[1:]) and len(cells) > 1 for i in range(len(head))
    ]

    def line(row: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ]
        return "  ".join(padded).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([line(cells[0]), rule, *map(line, cells[1:])])


def _short(cell: str) -> str:
    flat = " ".join(cell.split())
    return flat if len(flat) <= _WIDEST else flat[: _WIDEST - 1] + "…"


def _numeric(cell: str) -> bool:
    return not cell or cell[0].isdigit() or cell[0] in "-–?" or cell in ("nan", "inf")
