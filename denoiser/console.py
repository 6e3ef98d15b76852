"""What a person is told: lines and bars on stderr, errors that become exit codes."""

import contextlib
import dataclasses
import json
import os
import re
import signal
import sys
import time
import traceback
import unicodedata
import warnings
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any, NoReturn, cast

import click

from denoiser.errors import INTERRUPTED, ArgumentError, OutputError, PartialError, explain, one_line

if TYPE_CHECKING:
    from rich.progress import Progress

    from denoiser.arrays import Progress as Callback
    from denoiser.books import Result
    from denoiser.plan import Item

BAR_AFTER_S = 1.0
_TURNING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def say(line: str) -> None:
    """Print one line for the person, on stderr, if that takes it: work goes on without."""
    with contextlib.suppress(OSError):
        click.echo(visible(line), err=True)


def put(line: str) -> None:
    """Print one line on stdout, for a machine, or as what was asked for.

    Raises:
        OutputError: It is closed or full.
    """
    if sys.stdout is None:
        raise OutputError("standard output is closed")
    try:
        click.echo(line)
    except OSError as error:  # which is not told as the cause: that is the output folder's
        raise OutputError(f"cannot write to standard output: {error.strerror}") from None


def visible(line: str) -> str:
    """Escape what would end a line or command a terminal, as names of files may hold it."""
    return "".join(ascii(sign)[1:-1] if _commands(sign) else sign for sign in line)


def _commands(sign: str) -> bool:
    """Whether a character is a control, ends a line, is no Unicode or turns the writing around."""
    return sign in _TURNING or unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp")


def run(command: click.Command) -> NoReturn:
    """Run a command; every error becomes one line on stderr and its exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # tidies up as Ctrl-C does
    if os.name != "nt" and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as nohup has it
        signal.signal(signal.SIGHUP, signal.default_int_handler)
    warnings.simplefilter("ignore")  # of libraries, on what is odd in a file that can be read
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
        code = fail(error.format_message(), ArgumentError.exit_code, verbose)
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
    say(f"error: {one_line(message)}")
    return code


@dataclasses.dataclass(frozen=True)
class Show:
    """How much is told, and to whom."""

    dry_run: bool = False
    as_json: bool = False
    quiet: bool = False
    verbose: bool = False

    def outcome(self, source: str, target: str, state: str, why: str = "") -> None:
        """Tell what happens to a picture that is not restored now, a machine or a person."""
        if self.as_json:
            outcome: dict[str, Any] = {"input": source, "output": target}
            outcome |= {"dry_run": True} if self.dry_run else {}
            put(json.dumps(outcome | {"state": state} | ({"why": why} if why else {})))
        elif not self.quiet:
            say(f"{source} -> {target}: {', '.join(filter(None, [state, why]))}")

    def note(self, line: str) -> None:
        """Tell a person something."""
        if not self.quiet:
            say(line)

    def report(self, report: dict[str, Any]) -> None:
        """Tell what was done to a picture."""
        if self.as_json:
            put(json.dumps(report))
        for line in [] if self.quiet else report_lines(report, self.verbose):
            say(line)


def no_gpu(why: str | None) -> str:
    """Say at the end of a line why no GPU was used, if one would have been welcome."""
    return f" (GPU not used: {why})" if why else ""


def report_lines(report: dict[str, Any], verbose: bool) -> list[str]:
    """Say what was done to a picture: warnings, a line, and two more if `verbose`."""
    lines = [f"warning: {note}" for note in report["warnings"]]
    filled = ""
    if "filled_px" in report:
        share = report["filled_px"] / (report["width"] * report["height"])
        filled = f" {share:.2%} filled,"
    lines.append(
        f"{report['input']} -> {report['output']}: {report['width']}x{report['height']},{filled}"
        f" {report['provider']} {report['precision']}, {sum(report['seconds'].values()):.1f} s"
        f"{no_gpu(report['gpu_not_used'])}"
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


class _Terminal:
    """Standard error as it is now, which may go away without harm."""

    def __init__(self) -> None:
        self._stream = sys.stderr  # rich puts something else there for a while

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write if that can be done."""
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush if that can be done."""
        with contextlib.suppress(OSError):
            self._stream.flush()


def _bar(*columns: Any) -> "Progress":
    from rich.console import Console
    from rich.progress import Progress

    return Progress(*columns, console=Console(file=cast(IO[str], _Terminal())), transient=True)


@contextlib.contextmanager
def progress_bar(title: str, *, enabled: bool) -> Iterator["Callback | None"]:
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
        bar.update(bar.task_ids[0], completed=done, total=total)

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
        self.megapixels, self.began = 0.0, time.perf_counter()  # monotonic() may stand still
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
            why_not = report["gpu_not_used"]
            news = {} if why_not != self.fallback else {"gpu_not_used": None}  # told once
            words = report_lines(names | report | news, self.show.verbose)
            self.provider, self.fallback = report["provider"], why_not
            if self._bar is not None and not self.show.verbose:
                words = [line for line in words if line.startswith("warning: ")]
        elif self.show.verbose:
            words = [f"{result.item.name}: skipped, {result.why}"]
        if self.show.as_json:
            why = {"why": result.why} if result.why else {}
            put(json.dumps(names | {"state": result.state} | why | report))
        if self.show.verbose and result.error:
            words += "".join(traceback.format_exception(result.error)).splitlines()
        for line in [] if self.show.quiet else words:
            self.tell(line)
        speed = f"{self.megapixels / (time.perf_counter() - self.began):.2f} MP/s"
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
            seconds = time.perf_counter() - self.began
            line += f"; {self.megapixels:.1f} megapixels in {seconds:.0f} s"
            line += f", {self.megapixels / seconds:.2f} MP/s, {self.provider}"
            line += no_gpu(self.fallback)
        return line
