"""Files as the rest wants them: whole or not there, never in the place of another."""

import contextlib
import errno
import functools
import hashlib
import itertools
import os
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from filelock import FileLock, Timeout

from denoiser.errors import OutputError

_UMASK = os.umask(0)  # asked once: to ask is to set it, for all threads
os.umask(_UMASK)
STALE_S = 60.0
"""After so long without a byte an unfinished file that nobody has locked is nobody's."""
_MODE = 0o666 & ~_UMASK  # of a file that is newly made


@contextlib.contextmanager
def whole_file(
    target: Path,
    *,
    overwrite: bool,
    scratch: Path | None = None,
    before_naming: Callable[[Path], None] = lambda part: None,
) -> Iterator[IO[bytes]]:
    """Open a hidden file, for reading and writing, that gets the name of `target` on success only.

    Args:
        target: Of a link what it shows is written, and the link stays.
        overwrite: Replace an existing file. Other things than files are never replaced.
        scratch: Folder for the unfinished file if it is on the same file system; None is the
            target's own.
        before_naming: Told the whole file, which is on the disk, before it gets its name.

    Raises:
        OutputError: Something has that name.
        OSError: It cannot be written.
    """
    target = real(target)
    if target.exists() and not target.is_file():
        raise taken(target)
    folder = target.parent
    if scratch and on_one_file_system(scratch, folder):
        folder = scratch
    else:
        _sweep_once(folder)
    descriptor, name = tempfile.mkstemp(".part", ".denoise-", folder)
    os.close(descriptor)
    part = Path(name)
    try:
        with part.open("w+b") as file:
            with contextlib.suppress(OSError):  # file systems without locks
                _lock(file)
            yield file
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(PermissionError):  # a share whose files are all somebody else's
            part.chmod(_mode_of(target))
        before_naming(part)
        if overwrite:
            part.replace(target)
        else:
            rename_new(part, target)
    finally:
        part.unlink(missing_ok=True)


def _mode_of(target: Path) -> int:
    """Permissions for what gets a name: those of the file that has it, if there is one."""
    try:
        return stat.S_IMODE(target.stat().st_mode)
    except FileNotFoundError:
        return _MODE


def sweep(folder: Path, *, age_s: float = 0.0) -> None:
    """Remove the unfinished files of `whole_file` that processes which were killed left behind.

    Args:
        folder: Where to look.
        age_s: How long nothing was written to them; those that are locked stay in any case.
    """
    for part in folder.glob(".denoise-*.part"):
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            if time.time() - part.stat().st_mtime < age_s:
                continue
            if sys.platform != "win32":  # where what is open cannot be removed anyway
                _lock(stack.enter_context(part.open("rb+")))
            part.unlink()


@functools.cache
def _sweep_once(folder: Path) -> None:
    """Sweep a folder in which others may be writing."""
    sweep(folder, age_s=STALE_S)


def _lock(file: IO[bytes]) -> None:
    """Lock an open file for this process, but on Windows.

    Raises:
        OSError: Another has locked it.
    """
    if sys.platform != "win32":
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def write_text(target: Path, text: str) -> None:
    """Write a text whole, in the place of what is there.

    Raises:
        OutputError: It cannot be written.
    """
    data = text.encode(errors="backslashreplace")  # names of files are any bytes
    try:
        with whole_file(target, overwrite=True) as file:
            file.write(data)
    except OSError as error:
        raise OutputError(f"cannot write {target}: {error.strerror or error}") from error


def taken(path: Path) -> OutputError:
    """What is said where something has the name that is wanted."""
    if path.exists() and not path.is_file():
        return OutputError(f"{path} is not an ordinary file and is not replaced")
    return OutputError(f"{path} exists: give --overwrite to replace it")


def rename_new(part: Path, target: Path) -> None:
    """Give a file its name unless something has that name, at whatever moment it appeared.

    Only POSIX file systems without hard links leave a moment between looking and renaming.
    """
    try:
        target.hardlink_to(part)
    except FileExistsError:
        raise taken(target) from None
    except OSError:  # file systems without hard links
        if target.exists():
            raise taken(target) from None
        part.rename(target)


def move_new(source: Path, target: Path) -> Path:
    """Move a file to a name, with a number behind it if that is taken; nothing is replaced.

    Of a link what it shows is put there, and the link is removed.

    Returns:
        The name that it got. Until it is whole under it the source stays, and so it does if it
        changes meanwhile.

    Raises:
        OSError: It cannot be moved.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part, stamp = source, stamp_of(source)
    try:
        if source.is_symlink() or not on_one_file_system(source.parent, target.parent):
            # a name that is found again, should this be cut short
            place = hashlib.sha256(os.fsencode(source.absolute())).hexdigest()
            part = target.parent / f".denoise-{place[:16]}.moving"
            part.unlink(missing_ok=True)  # it may be another name of what was moved before
            shutil.copyfile(source, part)
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            with contextlib.suppress(PermissionError):
                shutil.copystat(source, part)
        for number in itertools.count():
            free = target.with_stem(f"{target.stem}-{number}") if number else target
            with contextlib.suppress(OutputError):
                rename_new(part, free)
                break
        sync_folder(free.parent)
        try:
            if source.samefile(free) if part is source else stamp_of(source) == stamp:
                source.unlink()
        except FileNotFoundError:
            pass  # renamed, where there are no links
        except OSError:
            free.unlink()
            raise
    finally:
        if part is not source:
            part.unlink(missing_ok=True)
    return free


def sha256_of(path: Path) -> str:
    """Checksum of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stamp_of(path: Path) -> str:
    """Size and times of a file: as long as they are the same its content is.

    Compared for equality only, so a clock that goes backwards does no harm. The time of the last
    change to anything (ctime) cannot be set by programs; on Windows it is that of creation, so that
    there what is rewritten at the same size with its old time goes unseen.
    """
    status = path.stat()
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


def on_one_file_system(one: Path, other: Path) -> bool:
    """Whether files can be moved from one folder to the other without copying them.

    Raises:
        OSError: One of them takes no files.
    """
    return one.stat().st_dev == other.stat().st_dev and _is_one_mount(one, other)


@functools.cache
def _is_one_mount(one: Path, other: Path) -> bool:
    """Try to move a file: between mounts of one file system, as containers have, it is refused."""
    for folder in (one, other):
        _sweep_once(folder)
    descriptor, name = tempfile.mkstemp(".part", ".denoise-", one)
    os.close(descriptor)
    part = Path(name)
    try:
        part = part.rename(other / part.name)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        return False
    finally:
        part.unlink()
    return True


def check_writable(folder: Path, file: Path | None = None) -> None:
    """Refuse a folder in which nothing can be written, or in whose place none can be made.

    Args:
        folder: The folder.
        file: What is to be written there, for the error; None for many things.

    Raises:
        OutputError: It is so.
    """
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        tempfile.TemporaryFile(dir=place).close()  # permissions do not tell all, nor hold for root
    except OSError as error:
        what, why = file or f"into {folder}", error.strerror
        raise OutputError(f"cannot write {what}: {place} takes no files ({why})") from error


def check_folder(out: Path) -> None:
    """Refuse what is to become a folder of results but cannot, before any work is done.

    Raises:
        OutputError: It is a file, or takes no files.
    """
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out} is a file: --out is a folder")
    check_writable(out)


def walk(
    source: Path, unreadable: Callable[[OSError], None]
) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Walk folders and links to folders, each real folder once and by its own name if it has one.

    Args:
        source: Where to begin.
        unreadable: Told what hinders in a folder, which is left out.

    Yields:
        A folder, the names of those in it, from which the caller may take some, and of its files.
    """
    seen: set[tuple[int, int]] = set()
    links = [source]
    for start in links:  # which grows meanwhile
        for name, names, files in os.walk(start, onerror=unreadable):
            folder = Path(name)
            try:
                status = folder.stat()
            except OSError as error:  # it has just vanished
                unreadable(error)
                names.clear()
                continue
            if (status.st_dev, status.st_ino) in seen:  # by a link
                names.clear()
                continue
            seen.add((status.st_dev, status.st_ino))
            yield folder, names, files
            # Path.is_symlink() raises in a folder that may not be entered
            links += [folder / inside for inside in names if os.path.islink(folder / inside)]  # noqa: PTH114


def check_file(path: Path) -> None:
    """Refuse a file whose folder does not exist, or takes none.

    Raises:
        OutputError: It is so.
    """
    if not path.parent.is_dir():
        raise OutputError(f"cannot write {path}: there is no folder {path.parent}")
    check_writable(real(path).parent, path)  # a link is written through


def real(path: Path) -> Path:
    """Follow links.

    Raises:
        OutputError: They lead in a circle, or that cannot be found out.
    """
    try:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path.stat()  # of a circle resolve() says nothing from Python 3.13 on
        return path.resolve()
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error


def lie_within_each_other(one: Path, other: Path) -> bool:
    """Whether of two paths one is, or lies in, the other; as they are named and as links lead."""
    ways = [(one.absolute(), other.absolute()), (one.resolve(), other.resolve())]
    return any(a.is_relative_to(b) or b.is_relative_to(a) for a, b in ways)


@contextlib.contextmanager
def locked(path: Path, taken: str) -> Iterator[None]:
    """Hold a lock file, made if missing.

    Raises:
        OutputError: `taken`: another process holds it.
        OSError: It cannot be made.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise OutputError(taken) from error
    try:
        yield
    finally:
        lock.release()


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, where systems can do that."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
