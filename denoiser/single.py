"""One picture for a person: files or pipes, what exists, what is told about it."""

import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from denoiser import images
from denoiser.console import Show, Stopwatch, progress_bar
from denoiser.errors import ArgumentError, InputError, ModelError, OutputError
from denoiser.files import check_file, taken
from denoiser.job import Job
from denoiser.picture import Format
from denoiser.plan import Options

if TYPE_CHECKING:
    from denoiser.engine import Model


def process(
    source: str,
    target: str,
    suffix: str,
    job: Job,
    load: Callable[[], "Model"],
    options: Options,
    show: Show,
) -> None:
    """Restore one picture.

    Args:
        source: A file, or `-` for standard input.
        target: A file, a folder, or `-` for standard output.
        suffix: Added to the stem if `target` is a folder.
        job: What is asked for.
        load: Loads the model.
        options: How to deal with what exists.
        show: What is told.

    Raises:
        DenoiserError: What goes wrong, as the functions that are called.
    """
    if target == "-" and show.as_json:
        raise ArgumentError("--json and OUT - would both write to standard output")
    out = resolve_target(source, target, suffix, job.format)
    names = {"input": source, "output": str(out or "standard output")}
    if out and out.exists() and not out.is_file():
        raise taken(out)
    if out and out.exists() and not options.overwrite:
        if not options.skip_existing:
            raise taken(out)
        show.outcome(source, names["output"], "skipped", "exists")
        return
    job.check_beside(Path(source).name)
    if show.dry_run:
        job.fit(load())
        show.outcome(source, names["output"], "to do")
        return
    if out is None and sys.stdout.isatty():
        raise ArgumentError("OUT is - and standard output a terminal: send it to a file")
    watch = Stopwatch()
    picture = images.read(read_stdin() if source == "-" else Path(source))
    job.format_for(picture, out or sys.stdout.buffer)  # before any work is done
    watch.lap("read")
    model = load()
    job.fit(model)
    watch.lap("load")
    with progress_bar(Path(source).name, enabled=not show.quiet) as progress:
        report = job.restore([Path(source).name], [picture], model, progress)[0]
    watch.lap("restore")
    del model  # its memory is needed to encode a large picture
    report["warnings"] += job.write(picture, out or sys.stdout.buffer, overwrite=options.overwrite)
    watch.lap("write")
    show.report(names | {"state": "done"} | report | {"seconds": watch.seconds})


def read_stdin() -> bytes:
    """Read all of standard input.

    Raises:
        InputError: It is closed, or cannot be read.
    """
    if sys.stdin is None:
        raise InputError("standard input is closed")
    try:
        return sys.stdin.buffer.read()
    except OSError as error:
        raise InputError(f"cannot read standard input: {error.strerror}") from error


def _is_stdin(file: Path) -> bool:
    """Whether standard input is read from a file."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or none of the system
        return os.path.samestat(os.fstat(sys.stdin.fileno()), file.stat())
    return False


def forced_format(name: str | None) -> Format | None:
    """Look up the format of --format.

    Raises:
        ArgumentError: It is unknown.
        ModelError: It needs an extra that is not installed.
    """
    if name is None:
        return None
    try:
        return images.format_by_suffix(f".{name.removeprefix('.')}")
    except (ArgumentError, ModelError) as error:
        raise type(error)(f"--format {name}: {error}") from None


def resolve_target(source: str, target: str, suffix: str, format: Format | None) -> Path | None:
    """Find out where to write one picture.

    Returns:
        The path, None for standard output.

    Raises:
        ArgumentError: IN and OUT are the same, OUT's format is unknown, OUT is a folder and IN
            has no name, or it is none and there is a suffix.
        InputError: IN does not exist, or OUT is a folder and IN of unknown format.
        OutputError: OUT's folder does not exist, or it is standard output and closed.
    """
    if source != "-" and not (source and Path(source).exists()):
        raise InputError(f"no such file or folder: {source or '(empty name)'}")
    if suffix and not Path(target).is_dir():
        raise ArgumentError("--suffix is added to names in a folder, and OUT is not a folder")
    if target == "-":
        if sys.stdout is None:
            raise OutputError("standard output is closed")
        return None
    out = Path(target)
    if target.endswith(("/", os.sep)) and not out.is_dir():
        raise OutputError(f"there is no folder {target}")
    if out.is_dir():
        if source == "-":
            raise ArgumentError("OUT must be a file when IN is standard input")
        name = Path(source)
        out = out / f"{name.stem}{suffix}{images.suffix_of(name, format)}"
    check_file(out)
    if out.exists() and (_is_stdin(out) if source == "-" else out.samefile(source)):
        raise ArgumentError("IN and OUT are the same file: the input is never overwritten")
    if not format:
        try:
            images.format_of(out)
        except ArgumentError as error:
            if not Path(target).is_dir():
                raise
            raise InputError(f"{source} names no format for OUT: {error}") from None
    return out
