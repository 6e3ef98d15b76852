"""What is to be done to a folder: which pictures there are, and where each will go."""

import dataclasses
import stat
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from denoiser.errors import ArgumentError
from denoiser.files import lie_within_each_other, walk
from denoiser.images import SUFFIXES, suffix_of
from denoiser.picture import Format

JOURNAL_FOLDER = ".denoise"
SYSTEM_NAMES = frozenset(
    (
        "thumbs.db",
        "ehthumbs.db",
        "desktop.ini",
        "@eadir",
        "$recycle.bin",
        "lost+found",
        "system volume information",
    )
)
"""What systems leave in folders, in lower case; names that begin with a dot are hidden anyway."""


@dataclasses.dataclass(frozen=True)
class Options:
    """How to deal with what exists, and with what fails."""

    overwrite: bool = False
    """Do everything again and replace whatever stands in the way."""
    skip_existing: bool = False
    """Leave every picture alone whose output exists."""
    fail_fast: bool = False
    """Stop at the first picture that fails."""


@dataclasses.dataclass(frozen=True)
class Item:
    """A picture to restore."""

    name: str
    """Path relative to the input folder, with slashes."""
    output: str
    """Path relative to the output folder, with slashes."""
    source: Path
    target: Path

    @property
    def source_folder(self) -> Path:
        """The input folder."""
        return self.source.parents[self.name.count("/")]


@dataclasses.dataclass
class Plan:
    """What is to be done, and what is left out."""

    items: list[Item] = dataclasses.field(default_factory=list)
    unreadable: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    """Folders that could not be listed, with the reason."""
    clashes: list[tuple[Item, str]] = dataclasses.field(default_factory=list)
    """Pictures whose output an earlier one has, with the reason; not among `items`."""
    others: list[str] = dataclasses.field(default_factory=list)
    """Files of formats that are not supported, as `Item.name`."""
    special: list[str] = dataclasses.field(default_factory=list)
    """Pipes, devices and sockets, likewise."""
    folders: int = 0
    """Folders that were not walked, for want of `recursive`."""


def make_plan(
    source: Path, out: Path, *, recursive: bool, format: Format | None, suffix: str
) -> Plan:
    """Find every picture in `source` and its place in `out`.

    Args:
        source: Folder of pictures.
        out: Folder for the results; its tree mirrors that of `source`.
        recursive: Whether folders inside are walked.
        format: Output format; None is the input's.
        suffix: Added to each file's stem.

    Returns:
        The plan, sorted by name. Hidden and system files are not mentioned.

    Raises:
        ArgumentError: One folder lies within the other.
    """
    check_apart(source, out)
    plan = Plan()
    for folder, names, files in _walk(source, out, plan):
        if not recursive:
            plan.folders += len(names)
            names.clear()
        for name in files:
            path = folder / name
            inside = path.relative_to(source)
            if path.suffix.lower() not in SUFFIXES:
                plan.others.append(inside.as_posix())
                continue
            if _is_special(path):
                plan.special.append(inside.as_posix())
                continue
            output = inside.with_name(f"{path.stem}{suffix}{suffix_of(path, format)}")
            plan.items.append(Item(inside.as_posix(), output.as_posix(), path, out / output))
    plan.items.sort(key=lambda item: item.name)
    plan.others.sort()
    plan.special.sort()
    part_clashes(plan, out)
    return plan


def check_apart(source: Path, out: Path, what: str = "OUT") -> None:
    """Refuse folders of which one lies within the other; `what` is the second's name.

    Raises:
        ArgumentError: They do.
    """
    if out.resolve() == source.resolve():
        raise ArgumentError(f"IN and {what} are the same folder: the input is never overwritten")
    if lie_within_each_other(source, out):
        raise ArgumentError(
            f"{source} and {out} lie within each other: choose another place for {what}"
        )


def _walk(source: Path, out: Path, plan: Plan) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Walk folders and links to folders, each real folder once; hidden and system names left out.

    What a link shows of `out` is left out too. The caller may empty the list of folder names.
    """
    out = out.resolve()

    def unreadable(error: OSError) -> None:
        plan.unreadable.append((str(error.filename), error.strerror or str(error)))

    for folder, names, files in walk(source, unreadable):
        if folder.resolve().is_relative_to(out):  # by a link
            names.clear()
            continue
        names[:] = sorted(name for name in names if not _is_ignored(name))
        yield folder, names, [name for name in files if not _is_ignored(name)]


def _is_special(path: Path) -> bool:
    """Whether it is a pipe, a device or a socket, which would never end or never come."""
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False  # reading it will tell


def _is_ignored(name: str) -> bool:
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def part_clashes(plan: Plan, out: Path) -> None:
    """Take out pictures whose result would replace that of another.

    Whether names that differ in case do is not known before `out` has a journal.
    """
    taken: dict[str, Item] = {}
    folds_case = _folds_case(out)
    for item in plan.items:
        key = item.output
        if folds_case:
            key = unicodedata.normalize("NFC", key).casefold()
        first = taken.setdefault(key, item)
        if first is not item:
            why = f"{first.name} and {item.name} would both become {item.target}: rename one"
            plan.clashes.append((item, why))
    left_out = {item.name for item, _ in plan.clashes}
    plan.items = [item for item in plan.items if item.name not in left_out]


def _folds_case(out: Path) -> bool:
    """Whether the file system takes a.png and A.png for one file, where that can be seen."""
    return (out / JOURNAL_FOLDER).exists() and (out / JOURNAL_FOLDER.upper()).exists()
