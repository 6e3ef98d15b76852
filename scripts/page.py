"""Markdown that scripts write: tables, and the part of a page between two marks."""

from collections.abc import Sequence
from pathlib import Path

from denoiser.errors import InputError

END = "<!-- end -->"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a table."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (heads, *rows)]
    lines.insert(1, "|---" * len(heads) + "|")
    return "\n".join(lines) + "\n"


def around(path: Path, begin: str) -> tuple[str, str]:
    """Read a page: what stands before and after the part between `begin` and `END`, marks included.

    Raises:
        InputError: A mark is missing.
    """
    before, found, rest = path.read_text(encoding="utf-8").partition(begin)
    _, closed, after = rest.partition(END)
    if not (found and closed):
        raise InputError(f"{path} lacks the marks between which to write")
    return before + begin, END + after


def fill(path: Path, begin: str, text: str) -> None:
    """Replace what stands between the marks; whatever else the page has become meanwhile stays.

    Raises:
        InputError: A mark is missing.
    """
    before, after = around(path, begin)
    path.write_text(before + text + after, encoding="utf-8")
