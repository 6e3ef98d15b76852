"""The commands `denoise` and `denoiser`: the only place that prints or exits."""

import contextlib
import json
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import click

from denoiser import __version__
from denoiser.errors import (
    ArgumentError,
    DenoiserError,
    DeviceError,
    InputError,
    OutOfMemoryError,
    OutputError,
)

if TYPE_CHECKING:
    from denoiser.images import Format

BAR_AFTER_S = 1.0
INTERNAL, INTERRUPTED = 70, 130

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


def with_options(options: list[Callable[..., Any]]) -> Callable[..., Any]:
    """Apply several click options to a command."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def parse_sigma(text: str) -> float | Literal["auto"]:
    """Turn `auto` or a noise level on the 0-255 scale into "auto" or a level in [0, 1]."""
    if text == "auto":
        return "auto"
    try:
        level = float(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is neither auto nor a number") from error
    if not 0 <= level <= 255:
        raise click.BadParameter(f"{text} is not in 0-255")
    return level / 255


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("source", metavar="IN")
@click.argument("target", metavar="OUT")
@click.option(
    "-m",
    "--model",
    metavar="fast|balanced|best|NAME|FILE",
    help="A released model, or a path to an .onnx file.  [default: balanced]",
)
@click.option(
    "--sigma",
    type=parse_sigma,
    metavar="auto|N",
    default="auto",
    show_default=True,
    help="Noise standard deviation on the 0-255 scale.",
)
@click.option(
    "--strength",
    type=click.FloatRange(0, 1),
    default=1.0,
    show_default=True,
    help="How much of the noise to remove.",
)
@with_options(device_options)
@click.option(
    "-t",
    "--tile",
    "tile_px",
    type=click.IntRange(0),
    default=0,
    help="Side of the tiles in pixels; 0 = auto.",
)
@click.option(
    "--max-memory",
    "max_memory_mb",
    type=click.IntRange(1),
    metavar="MB",
    help="Choose tiles so that about this much memory is used.",
)
@click.option(
    "--format",
    "format_name",
    metavar="NAME",
    help="png, jpg, tif, webp, avif or bmp, instead of what OUT's name says.",
)
@click.option(
    "--quality",
    type=click.IntRange(1, 100),
    help="Of JPEG, WebP and AVIF; default: as the input, 90-95 if that is unknown.",
)
@click.option(
    "--bit-depth", type=click.Choice(["keep", "8", "16"]), default="keep", show_default=True
)
@click.option("--suffix", default="", help="Added to the file's stem when OUT is a folder.")
@click.option("--overwrite", is_flag=True, help="Replace OUT if it exists.")
@click.option("--skip-existing", is_flag=True, help="Do nothing if OUT exists.")
@click.option("--strip-metadata", is_flag=True, help="Leave out EXIF, XMP and DPI.")
@click.option("--dry-run", is_flag=True, help="Say what would be done.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one line of JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Print errors only.")
@click.option("-v", "--verbose", is_flag=True, help="Print timings too, and tracebacks of errors.")
@click.version_option(__version__)
def denoise(
    source: str,
    target: str,
    model: str | None,
    sigma: float | Literal["auto"],
    strength: float,
    device: str,
    require_gpu: bool,
    precision: Literal["auto", "fp32", "fp16"],
    threads: int,
    tile_px: int,
    max_memory_mb: int | None,
    format_name: str | None,
    quality: int | None,
    bit_depth: Literal["keep", "8", "16"],
    suffix: str,
    overwrite: bool,
    skip_existing: bool,
    strip_metadata: bool,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Remove the noise from picture IN and write it to OUT; - is standard input or output.

    OUT keeps the depth, transparency, colour profile, EXIF, XMP and resolution of IN, in the format
    that its name says. IN is never touched.
    """
    if target == "-" and as_json:
        raise ArgumentError("--json and OUT - would both write to standard output")
    out, format = resolve_target(source, target, suffix, format_name)
    if isinstance(out, Path) and out.exists() and not overwrite:
        if not skip_existing:
            raise OutputError(f"{out} exists: give --overwrite to replace it")
        if as_json:
            click.echo(json.dumps({"input": source, "output": str(out), "skipped": True}))
        elif not quiet:
            say(f"{out} exists: skipped")
        return
    if dry_run:
        if as_json:
            click.echo(json.dumps({"input": source, "output": str(out), "dry_run": True}))
        else:
            say(f"{source} -> {out or 'standard output'}")
        return

    from denoiser import catalog, images, restore

    watch = Stopwatch()
    picture = images.read(read_stdin() if source == "-" else Path(source))
    format = format or next(known for known in images.FORMATS if known.name == picture.format)
    watch.lap("read")

    loaded = catalog.load(
        model, device=device, require_gpu=require_gpu, precision=precision, threads=threads
    )
    if max_memory_mb is not None:
        tile_px = restore.tile_within(max_memory_mb * 1_000_000, picture.pixels, loaded, tile_px)
    watch.lap("load")

    height, width = picture.pixels.shape[:2]
    with progress_bar(Path(source).name, enabled=not quiet) as progress:
        level = restore.denoise_channels(
            picture.pixels,
            picture.mode,
            loaded,
            sigma=sigma,
            strength=strength,
            tile_px=tile_px,
            progress=progress,
        )
    watch.lap("restore")

    report: dict[str, Any] = {
        "input": source,
        "output": str(out or "standard output"),
        "model": loaded.contract.name,
        "provider": loaded.provider,
        "precision": loaded.precision,
        "gpu_not_used": loaded.fallback,
        "sigma": round(level * 255, 3),
        "sigma_estimated": sigma == "auto",
        "strength": strength,
        "width": width,
        "height": height,
    }
    blind = "sigma" not in loaded.contract.inputs
    del loaded  # its memory is needed to encode a large picture
    notes = list(picture.notes)
    if sigma != "auto" and blind:
        notes.append("the model takes no noise level: --sigma is not used")
    elif sigma != "auto" and abs(sigma - level) > 1e-9:
        notes.append(f"the model was not trained for that noise: sigma {level * 255:.0f} is used")
    notes += images.write(
        picture,
        out or sys.stdout.buffer,
        format,
        quality=quality,
        depth=bit_depth,
        strip_metadata=strip_metadata,
        overwrite=overwrite,
    )
    watch.lap("write")

    report |= {"seconds": watch.seconds, "warnings": notes}
    if as_json:
        click.echo(json.dumps(report))
    for line in [] if quiet else report_lines(report, verbose):
        say(line)


def report_lines(report: dict[str, Any], verbose: bool) -> list[str]:
    """Say what was done: warnings, a line, and two more if `verbose`."""
    lines = [f"warning: {note}" for note in report["warnings"]]
    why = f" (GPU not used: {report['gpu_not_used']})" if report["gpu_not_used"] else ""
    lines.append(
        f"{report['input']} -> {report['output']}: {report['width']}x{report['height']},"
        f" {report['provider']} {report['precision']}, {sum(report['seconds'].values()):.1f} s{why}"
    )
    if verbose:
        found = "estimated" if report["sigma_estimated"] else "given"
        lines.append(f"model {report['model']}, sigma {report['sigma']:.1f} of 255 ({found})")
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


def read_stdin() -> bytes:
    """Read all of standard input.

    Raises:
        InputError: It is closed.
    """
    if sys.stdin is None:
        raise InputError("standard input is closed")
    return sys.stdin.buffer.read()


def resolve_target(
    source: str, target: str, suffix: str, format_name: str | None
) -> tuple[Path | None, "Format | None"]:
    """Find out where to write and in what format.

    Returns:
        The path, None for standard output; the format, None for that of the input.

    Raises:
        ArgumentError: IN is a folder of pictures, or IN and OUT are the same.
        InputError: IN does not exist, or is a folder without pictures.
        OutputError: OUT's folder does not exist, or its format is unknown.
    """
    from denoiser import images

    if source != "-":
        if Path(source).is_dir():
            names = (path.suffix.lower() for path in Path(source).iterdir())
            if not any(name in images.SUFFIXES for name in names):
                raise InputError(f"no pictures in {source}")
            raise ArgumentError(f"{source} is a folder: give one picture at a time")
        if not source or not Path(source).exists():
            raise InputError(f"no such file: {source or '(empty name)'}")
    try:
        forced = images.format_of(f"x.{format_name}") if format_name else None
    except OutputError:
        raise ArgumentError(f"unknown --format {format_name}") from None
    if target == "-":
        return None, forced
    out = Path(target)
    if out.is_dir():
        if source == "-":
            raise ArgumentError("OUT must be a file when IN is standard input")
        name = Path(source)
        extension = forced.suffixes[0] if forced else name.suffix
        out = out / f"{name.stem}{suffix}{extension}"
    if not out.parent.is_dir():
        raise OutputError(f"cannot write {out}: there is no folder {out.parent}")
    if source != "-" and out.exists() and out.samefile(source):
        raise ArgumentError("IN and OUT are the same file: the input is never overwritten")
    return out, forced or images.format_of(out)


@contextlib.contextmanager
def progress_bar(title: str, *, enabled: bool) -> Iterator[Callable[[int, int], None] | None]:
    """Give a callback that shows a bar on a terminal once work has taken a second."""
    if not enabled or not sys.stderr.isatty():
        yield None
        return
    started = time.monotonic()
    bar: Any = None

    def advance(done: int, total: int) -> None:
        nonlocal bar
        if bar is None:
            if time.monotonic() - started < BAR_AFTER_S or done >= total:
                return
            from rich.console import Console
            from rich.progress import Progress

            bar = Progress(console=Console(stderr=True), transient=True)
            bar.add_task(title, total=total)
            bar.start()
        bar.update(bar.task_ids[0], completed=done)

    try:
        yield advance
    finally:
        if bar is not None:
            bar.stop()


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def denoiser() -> None:
    """Look after denoiser: what works here, and which models there are."""


@denoiser.command()
@click.option("-v", "--verbose", is_flag=True, help="Show tracebacks of errors.")
def models(verbose: bool) -> None:
    """List the released models with their cards."""
    from denoiser import catalog

    known = catalog.cards()
    for card in known:
        default = " (default)" if card == catalog.default(known) else ""
        click.echo(f"{card.name}{default}: {card.summary}")
        for key, value in card.details.items():
            if key not in ("name", "summary"):
                click.echo(f"  {key}: {_flat(value)}")


def _flat(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_flat(item)}" for key, item in value.items())
    if isinstance(value, list):
        return " / ".join(_flat(item) for item in value)
    return str(value)


@denoiser.command()
@with_options(device_options)
@click.option("-m", "--model", help="Model to try, as in denoise.")
@click.option("-v", "--verbose", is_flag=True, help="Show tracebacks of errors.")
def doctor(
    device: str,
    require_gpu: bool,
    precision: Literal["auto", "fp32", "fp16"],
    threads: int,
    model: str | None,
    verbose: bool,
) -> None:
    """Run one inference on each device and say which really ran and what is missing."""
    import platform

    import numpy as np

    from denoiser import catalog, engine

    click.echo(f"denoiser {__version__}, Python {platform.python_version()}, {platform.platform()}")
    click.echo(f"onnxruntime {engine.runtime_version()}")
    if problem := engine.distribution_problem():
        click.echo(f"problem: {problem}")
    side = 512
    image = np.random.default_rng(0).random((1, 3, side, side), np.float32)
    for name in dict.fromkeys(["cpu", "cuda" if device == "auto" else device]):
        try:
            loaded = catalog.load(
                model,
                device=name,
                precision="auto" if name == "cpu" else precision,
                threads=threads,
            )
            loaded.run(image, image[:, :1])
            started = time.perf_counter()
            loaded.run(image, image[:, :1])
            speed = side**2 / 1e6 / (time.perf_counter() - started)
            click.echo(
                f"{name}: works, {loaded.provider} {loaded.precision}, {speed:.2f} megapixels/s"
                f" with {loaded.contract.name}"
            )
        except DeviceError as error:
            click.echo(f"{name}: does not work: {error}")
            if require_gpu:
                raise


def say(line: str) -> None:
    """Print one line for the person, on stderr."""
    click.echo(line, err=True)


def run(command: click.Command) -> NoReturn:
    """Run a command; every error becomes one line on stderr and its exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # tidies up as Ctrl-C does
    known = {parameter.name for parameter in command.params}
    if "verbose" not in known and not isinstance(command, click.Group):
        names, text = ["-v", "--verbose"], "Show tracebacks of errors."
        command.params.append(click.Option(names, is_flag=True, expose_value=False, help=text))
    verbose = any(re.fullmatch("--verbose|-[a-z]*v[a-z]*", word) for word in sys.argv[1:])
    try:
        with command.make_context(command.name, sys.argv[1:]) as context:
            command.invoke(context)
        code = 0
    except click.exceptions.Exit as exit:
        code = exit.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        say(error.format_message())
        code = ArgumentError.exit_code
    except click.ClickException as error:
        code = fail(error.format_message().replace("\n", " "), ArgumentError.exit_code, verbose)
    except DenoiserError as error:
        code = fail(str(error), error.exit_code, verbose)
    except KeyboardInterrupt:
        code = fail("interrupted", INTERRUPTED, verbose)
    except MemoryError:
        code = fail("out of memory: try --tile 512", OutOfMemoryError.exit_code, verbose)
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        code = fail(f"{error.strerror or error}{where}", OutputError.exit_code, verbose)
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        code = fail(f"internal error, please report it with -v: {what}", INTERNAL, verbose)
    sys.exit(code)


def fail(message: str, code: int, verbose: bool) -> int:
    """Print an error's line, with the traceback if asked; returns the exit code."""
    if verbose:
        traceback.print_exc()
    say(f"error: {' '.join(message.split())}")
    return code


def denoise_main() -> NoReturn:
    """Entry point of `denoise`."""
    run(denoise)


def denoiser_main() -> NoReturn:
    """Entry point of `denoiser`."""
    run(denoiser)
