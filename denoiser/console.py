"""What commands share: options, lines and bars on stderr, errors that become exit codes."""

import contextlib
import dataclasses
import json
import os
import re
import signal
import stat
import sys
import time
import traceback
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from denoiser import __version__
from denoiser.errors import INTERRUPTED, ArgumentError, InputError, PartialError, explain

if TYPE_CHECKING:
    from rich.progress import Progress

    from denoiser.batch import Result
    from denoiser.plan import Item

BAR_AFTER_S = 1.0
_TURNING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
Advance = Callable[[int, int], None]


def _no_path(_: click.Context, __: click.Parameter, text: str) -> str:
    if set(text) & {"/", "\\", "\0"}:
        raise click.BadParameter(f"{text!r} is no part of a file name")
    return text


device_options = [
    click.option(
        "--device",
        default="auto",
        metavar="auto|cpu|cuda[:N]",
        show_default=True,
        help="Where to compute; auto takes a GPU if one works.",
    ),
    click.option("--require-gpu", is_flag=True, help="Fail (exit code 6) rather than use the CPU."),
    click.option(
        "--precision",
        type=click.Choice(["auto", "fp32", "fp16"]),
        default="auto",
        show_default=True,
        help="auto computes in fp16 on a GPU, in fp32 on a CPU.",
    ),
    click.option(
        "--threads", type=click.IntRange(0), default=0, help="CPU threads; 0 = all cores."
    ),
]
writing_options = [
    click.option(
        "--format",
        "format_name",
        metavar="NAME",
        help="png, jpg, tif, webp, avif or bmp, instead of what OUT's name says.",
    ),
    click.option(
        "--quality",
        type=click.IntRange(1, 100),
        help="Default: of JPEG as the JPEG that was read, else 95; of WebP and AVIF 90.",
    ),
    click.option(
        "--bit-depth",
        type=click.Choice(["keep", "8", "16"]),
        default="keep",
        show_default=True,
        help="Bits per channel of OUT.",
    ),
    click.option(
        "--strip-metadata", is_flag=True, help="Leave out EXIF, XMP, IPTC, comments and DPI."
    ),
    click.option(
        "--suffix",
        default="",
        callback=_no_path,
        help="Added to the file's stem when OUT is a folder.",
    ),
    click.option("--overwrite", is_flag=True, help="Replace what exists; do again what is done."),
    click.option("--skip-existing", is_flag=True, help="Do nothing where the output exists."),
]
folder_options = [
    click.option(
        "-r", "--recursive", is_flag=True, help="Walk folders in IN; OUT mirrors the tree."
    ),
    click.option("--fail-fast", is_flag=True, help="Stop at the first picture of IN that fails."),
    click.option(
        "--report",
        "sheet_path",
        type=click.Path(path_type=Path),
        metavar="FILE.html",
        help="Contact sheet of the pictures of IN that changed most.",
    ),
]
showing_options = [
    click.option("--dry-run", is_flag=True, help="Say what would be done."),
    click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each picture."),
    click.option("-q", "--quiet", is_flag=True, help="Print errors only."),
    click.option(
        "-v", "--verbose", is_flag=True, help="Print timings too, and tracebacks of errors."
    ),
    click.version_option(__version__),
]


def with_options(options: list[Callable[..., Any]]) -> Callable[..., Any]:
    """Apply several click options to a command."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def is_folder(source: str) -> bool:
    """Say whether IN is a folder.

    Raises:
        InputError: That cannot be found out.
    """
    status = look_up(source) if source not in ("", "-") else None
    return status is not None and stat.S_ISDIR(status.st_mode)


def look_up(name: str) -> os.stat_result | None:
    """Look a file or folder up; None if there is none.

    Raises:
        InputError: That cannot be found out.
    """
    try:
        return os.stat(name)  # noqa: PTH116, Path.exists() hides errors from Python 3.14 on
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InputError(f"cannot read {name}: {error.strerror}") from error


def refuse_nameless(target: str) -> None:
    """Refuse an OUT that is empty, as an unset variable leaves it: it would be where one is.

    Raises:
        ArgumentError: It is.
    """
    if not target:
        raise ArgumentError("OUT is an empty name")


def refuse_both(*, overwrite: bool, skip_existing: bool) -> None:
    """Refuse options that contradict each other.

    Raises:
        ArgumentError: Both were given.
    """
    if overwrite and skip_existing:
        raise ArgumentError("--overwrite or --skip-existing: give one of them")


def refuse_without_folder(source: str, **options: object) -> None:
    """Refuse options that only make sense if IN is a folder; names have _ for -.

    Raises:
        InputError: One of them was given, and `source` does not exist.
        ArgumentError: One of them was given.
    """
    for name, given in options.items():
        if given and source != "-" and not Path(source).exists():
            raise InputError(f"no such folder: {source}")
        if given:
            raise ArgumentError(f"--{name.replace('_', '-')}: IN is no folder")


def say(line: str) -> None:
    """Print one line for the person, on stderr."""
    click.echo(visible(line), err=True)


def visible(line: str) -> str:
    """Escape what would end a line or command a terminal, as names of files may hold it."""
    return "".join(ascii(sign)[1:-1] if _commands(sign) else sign for sign in line)


def _commands(sign: str) -> bool:
    """Whether a character is a control, ends a line, is no Unicode or turns the writing around."""
    return sign in _TURNING or unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp")


def run(command: click.Command) -> NoReturn:
    """Run a command; every error becomes one line on stderr and its exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # tidies up as Ctrl-C does
    _add_verbose(command)
    verbose = any(re.fullmatch("--verbose|-[a-z]*v[a-z]*", word) for word in sys.argv[1:])
    try:
        with command.make_context(command.name, sys.argv[1:]) as context:
            command.invoke(context)
        code = 0
    except click.exceptions.Exit as exit:
        code = exit.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        code = ArgumentError.exit_code
    except click.ClickException as error:
        code = fail(error.format_message().replace("\n", " "), ArgumentError.exit_code, verbose)
    except KeyboardInterrupt:
        code = fail("interrupted", INTERRUPTED, verbose)
    except PartialError as error:  # what failed was told
        code = fail(*explain(error), verbose=False)
    except Exception as error:
        code = fail(*explain(error), verbose)
    sys.exit(code)


def _add_verbose(command: click.Command) -> None:
    """Give -v to a command that has none, or to those of a group."""
    if isinstance(command, click.Group):
        for each in command.commands.values():
            _add_verbose(each)
    elif "verbose" not in {parameter.name for parameter in command.params}:
        names, text = ["-v", "--verbose"], "Show tracebacks of errors."
        command.params.append(click.Option(names, is_flag=True, expose_value=False, help=text))


def fail(message: str, code: int, verbose: bool) -> int:
    """Print an error's line, with the traceback if asked; returns the exit code."""
    for line in traceback.format_exc().splitlines() if verbose else []:
        say(line)
    say(f"error: {' '.join(message.split())}")
    return code


@dataclasses.dataclass(frozen=True)
class Show:
    """How much is told, and to whom."""

    dry_run: bool = False
    as_json: bool = False
    quiet: bool = False
    verbose: bool = False

    def outcome(self, outcome: dict[str, Any], words: str = "") -> None:
        """Tell what happens to a picture: input, output and more, for a machine or a person."""
        if self.as_json:
            click.echo(json.dumps(outcome))
        elif not self.quiet:
            say(f"{outcome['input']} -> {outcome['output']}{': ' if words else ''}{words}")

    def note(self, line: str) -> None:
        """Tell a person something."""
        if not self.quiet:
            say(line)

    def report(self, report: dict[str, Any]) -> None:
        """Tell what was done to a picture."""
        if self.as_json:
            click.echo(json.dumps(report))
        for line in [] if self.quiet else report_lines(report, self.verbose):
            say(line)


def report_lines(report: dict[str, Any], verbose: bool) -> list[str]:
    """Say what was done to a picture: warnings, a line, and two more if `verbose`."""
    lines = [f"warning: {note}" for note in report["warnings"]]
    why = f" (GPU not used: {report['gpu_not_used']})" if report["gpu_not_used"] else ""
    filled = ""
    if "filled_px" in report:
        share = report["filled_px"] / (report["width"] * report["height"])
        filled = f" {share:.2%} filled,"
    lines.append(
        f"{report['input']} -> {report['output']}: {report['width']}x{report['height']},{filled}"
        f" {report['provider']} {report['precision']}, {sum(report['seconds'].values()):.1f} s{why}"
    )
    if verbose and "sigma" in report:
        found = "estimated" if report["sigma_estimated"] else "given"
        lines.append(f"model {report['model']}, sigma {report['sigma']:.1f} of 255 ({found})")
    if verbose:
        laps = report["seconds"].items()
        lines.append(", ".join(f"{name} {seconds:.2f} s" for name, seconds in laps))
    return lines


class Stopwatch:
    """Seconds between laps, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """End the lap `name` and begin the next."""
        now = time.perf_counter()
        self.seconds[name] = round(now - self._last, 4)
        self._last = now


def _on_terminal() -> bool:
    """Whether a person sees standard error, which may be closed."""
    return sys.stderr is not None and sys.stderr.isatty()


def _bar(*columns: Any) -> "Progress":
    from rich.console import Console
    from rich.progress import Progress

    return Progress(*columns, console=Console(stderr=True), transient=True)


@contextlib.contextmanager
def progress_bar(title: str, *, enabled: bool) -> Iterator[Advance | None]:
    """Give a callback that shows a bar on a terminal once work has taken a second."""
    if not enabled or not _on_terminal():
        yield None
        return
    started = time.monotonic()
    bar: Progress | None = None

    def advance(done: int, total: int) -> None:
        nonlocal bar
        if bar is None:
            if time.monotonic() - started < BAR_AFTER_S or done >= total:
                return
            from rich.markup import escape

            bar = _bar()
            bar.add_task(escape(visible(title)), total=total)
            bar.start()
        bar.update(bar.task_ids[0], completed=done)

    try:
        yield advance
    finally:
        if bar is not None:
            bar.stop()


class FolderView:
    """Shows how a folder comes along, a bar on a terminal and else a line for each picture."""

    def __init__(self, total: int | None, show: Show) -> None:
        """Start.

        Args:
            total: How many pictures there are; None if nobody knows.
            show: How much is told; if verbose a line for every picture, also for those skipped.
        """
        self.show, self.total = show, total
        self.counts = {"done": 0, "skipped": 0, "failed": 0}
        self.megapixels, self.began = 0.0, time.monotonic()
        self.failures: list[str] = []
        self.provider = self.fallback = ""
        self._bar: Progress | None = None
        if not show.quiet and total is not None and _on_terminal():
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

            self._bar = _bar(
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[speed]}"),
                TimeRemainingColumn(),
                TextColumn("{task.description}", markup=False),
            )
            self._bar.add_task("", total=total, speed="")
            self._bar.start()

    def started(self, item: "Item") -> None:
        """Name the picture that is being restored."""
        self._update(description=visible(item.name))

    def progress(self, done: int, total: int) -> None:
        """Note how much of the present picture is restored."""
        self._update(completed=sum(self.counts.values()) + done / total * 0.99)

    def finished(self, result: "Result") -> None:
        """Note how it went with a picture."""
        self.counts[result.state] += 1
        report = result.report
        names = {"input": result.item.name, "output": str(result.item.target)}
        words: list[str] = []
        if result.state == "failed":
            failure = f"failed: {result.item.name}: {result.why}"
            if self.total is not None:
                self.failures.append(failure)  # told at the end, where it is seen
            else:
                self.tell(failure)
        elif result.state == "done":
            self.megapixels += report["width"] * report["height"] / 1e6
            self.provider, self.fallback = report["provider"], report["gpu_not_used"]
            words = report_lines(names | report, self.show.verbose)
            if self._bar is not None and not self.show.verbose:
                words = [line for line in words if line.startswith("warning: ")]
        elif self.show.verbose:
            words = [f"{result.item.name}: skipped, {result.why}"]
        if self.show.as_json:
            why = {"why": result.why} if result.why else {}
            click.echo(json.dumps(names | {"state": result.state} | why | report))
        if self.show.verbose and result.error:
            words += "".join(traceback.format_exception(result.error)).splitlines()
        for line in [] if self.show.quiet else words:
            self.tell(line)
        speed = f"{self.megapixels / (time.monotonic() - self.began):.2f} MP/s"
        self._update(completed=sum(self.counts.values()), speed=speed)

    def tell(self, line: str) -> None:
        """Say a line without disturbing the bar."""
        if self._bar is not None:
            from rich.text import Text  # which no markup and no emoji are looked for in

            self._bar.console.print(Text(visible(line)), soft_wrap=True)
        else:
            say(line)

    def _update(self, **values: Any) -> None:
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], **values)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()

    def summary(self) -> str:
        """Say what was done."""
        parts = [f"{count} {state}" for state, count in self.counts.items() if count]
        if left := max(0, (self.total or 0) - sum(self.counts.values())):
            parts.append(f"{left} left")
        line = ", ".join(parts) or "nothing to do"
        if self.counts["done"]:
            seconds = time.monotonic() - self.began
            line += f"; {self.megapixels:.1f} megapixels in {seconds:.0f} s"
            line += f", {self.megapixels / seconds:.2f} MP/s, {self.provider}"
            line += f" (GPU not used: {self.fallback})" if self.fallback else ""
        return line
