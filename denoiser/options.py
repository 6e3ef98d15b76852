"""Options that commands share, and what is refused before anything is done."""

import dataclasses
import functools
import math
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from denoiser import __version__
from denoiser.errors import ArgumentError, InputError

if TYPE_CHECKING:
    from denoiser.engine import Model, Precision
    from denoiser.job import Job
    from denoiser.watch import Rules

Command = Callable[..., None]


class Number(click.FloatRange):
    """A finite number in a range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Convert as click does, but refuse NaN and infinity."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number", param, ctx)
        return number


class NamedPath(click.Path):
    """A path, which may not be the empty name that an unset variable leaves."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Convert as click does, for which the empty name is the present folder."""
        if value == "":
            self.fail("it is an empty name", param, ctx)
        return super().convert(value, param, ctx)


def auto_or_number(text: str, most: float) -> float | Literal["auto"]:
    """Read `auto` or a number from 0 to `most`.

    Raises:
        click.BadParameter: It is neither.
    """
    if text == "auto":
        return "auto"
    try:
        number = float(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is neither auto nor a number") from error
    if not 0 <= number <= most:
        raise click.BadParameter(f"{text} is not in 0-{most:g}")
    return number


def _no_path(_: click.Context, __: click.Parameter, text: str) -> str:
    if set(text) & {"/", "\\", "\0"}:
        raise click.BadParameter(f"{text!r} cannot be part of a file name")
    return text


device_options = [
    click.option(
        "--device",
        default="auto",
        metavar="auto|cpu|cuda[:N]",
        show_default=True,
        help="Where to run; auto uses a GPU if one works.",
    ),
    click.option("--require-gpu", is_flag=True, help="Fail (exit code 6) without a GPU."),
    click.option(
        "--precision",
        type=click.Choice(["auto", "fp32", "fp16"]),
        default="auto",
        show_default=True,
        help="auto is fp16 on a GPU and fp32 on a CPU.",
    ),
    click.option(
        "--threads",
        type=click.IntRange(0),
        default=0,
        help="CPU threads, at most one per core; 0 = all cores.",
    ),
]
views_option = click.option(
    "--views",
    type=click.Choice([1, 2, 4, 8]),
    default=1,
    show_default=True,
    help="Average this many mirrored and turned views: a little better, in as many times the time.",
)
writing_options = [
    click.option(
        "--format",
        "format_name",
        metavar="NAME",
        help="Write png, jpg, tif, webp, avif, bmp or heic, whatever OUT is called.",
    ),
    click.option(
        "--quality",
        type=click.IntRange(1, 100),
        help="Quality of JPEG, WebP, AVIF and HEIC.  [default: a JPEG input's own, else 95; of"
        " the others 90]",
    ),
    click.option(
        "--bit-depth",
        type=click.Choice(["keep", "8", "16"]),
        default="keep",
        show_default=True,
        help="Bits per channel of OUT.",
    ),
    click.option(
        "--strip-metadata", is_flag=True, help="Write no EXIF, XMP, IPTC, comments or DPI."
    ),
    click.option(
        "--suffix",
        default="",
        callback=_no_path,
        help="Added to the file's stem when OUT is a folder.",
    ),
    click.option("--overwrite", is_flag=True, help="Replace existing files, redo what is done."),
    click.option("--skip-existing", is_flag=True, help="Skip pictures whose output exists."),
]
folder_options = [
    click.option(
        "-r", "--recursive", is_flag=True, help="Include folders inside IN; OUT mirrors the tree."
    ),
    click.option("--fail-fast", is_flag=True, help="Stop at the first picture that fails."),
    click.option(
        "--report",
        "sheet_path",
        type=click.Path(path_type=Path),
        metavar="FILE.html",
        help="Write a contact sheet of the pictures that changed most.",
    ),
]
showing_options = [
    click.option("--dry-run", is_flag=True, help="Only show what would be done."),
    click.option("--json", "as_json", is_flag=True, help="Print one line of JSON per picture."),
    click.option("-q", "--quiet", is_flag=True, help="Print errors only, no warnings."),
    click.option(
        "-v", "--verbose", is_flag=True, help="Also print timings, and tracebacks of errors."
    ),
    click.version_option(__version__),
]


@dataclasses.dataclass(frozen=True)
class Shared:
    """What `denoise` and `inpaint` are asked alike."""

    device: str
    require_gpu: bool
    precision: "Precision"
    threads: int
    views: int
    format_name: str | None
    quality: int | None
    bit_depth: Literal["keep", "8", "16"]
    strip_metadata: bool
    suffix: str
    overwrite: bool
    skip_existing: bool
    recursive: bool
    fail_fast: bool
    sheet_path: Path | None
    dry_run: bool
    as_json: bool
    quiet: bool
    verbose: bool

    def check(self, source: str, target: str, **of_folders: object) -> bool:
        """Refuse IN, OUT and options that do not go together.

        Args:
            source: IN.
            target: OUT.
            **of_folders: Options of the command that only make sense if IN is a folder.

        Returns:
            Whether IN is a folder.

        Raises:
            InputError: That cannot be found out.
            ArgumentError: They do not go together.
        """
        of_folder = is_folder(source)
        if not of_folder:
            _refuse_without_folder(
                source,
                recursive=self.recursive,
                fail_fast=self.fail_fast,
                report=self.sheet_path,
                **of_folders,
            )
        if not target:  # as an unset variable leaves it
            raise ArgumentError("OUT is an empty name")
        if self.overwrite and self.skip_existing:
            raise ArgumentError("--overwrite or --skip-existing: give one of them")
        return of_folder

    def common(self) -> dict[str, Any]:
        """What every job is asked."""
        from denoiser.single import forced_format

        return {
            "views": self.views,
            "format": forced_format(self.format_name),
            "quality": self.quality,
            "depth": self.bit_depth,
            "strip_metadata": self.strip_metadata,
        }

    def process(
        self, source: str, target: str, job: "Job", model: str | None, rules: "Rules | None" = None
    ) -> None:
        """Do a job to IN, a picture or a folder.

        Args:
            source: IN.
            target: OUT.
            job: What is asked for.
            model: Name or path; None for the default.
            rules: How to watch a folder; None ends when all is done.
        """
        from denoiser import catalog, folder, plan, single
        from denoiser.console import Show

        def load() -> "Model":
            return catalog.load(
                model,
                task=job.task,
                device=self.device,
                require_gpu=self.require_gpu,
                precision=self.precision,
                threads=self.threads,
                views=job.views,
            )

        existing = plan.Options(self.overwrite, self.skip_existing, self.fail_fast)
        show = Show(self.dry_run, self.as_json, self.quiet, self.verbose)
        if not is_folder(source):
            single.process(source, target, self.suffix, job, load, existing, show)
            return
        places = folder.Places(
            Path(source), Path(target), recursive=self.recursive, suffix=self.suffix
        )
        folder.process(places, job, load, existing, show, sheet_path=self.sheet_path, rules=rules)


def with_options(options: Sequence[Callable[[Command], Command]]) -> Callable[[Command], Command]:
    """Apply several click options to a command."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def shared_options(command: Command) -> Command:
    """Give a command the options of `Shared`, and them to it as `shared`."""

    @functools.wraps(command)
    def gather(**values: Any) -> None:
        fields = dataclasses.fields(Shared)
        command(shared=Shared(**{field.name: values.pop(field.name) for field in fields}), **values)

    options = [*device_options, views_option, *writing_options, *folder_options, *showing_options]
    return with_options(options)(gather)


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


def _refuse_without_folder(source: str, **options: object) -> None:
    """Refuse options that only make sense if IN is a folder; names have _ for -.

    Raises:
        InputError: One of them was given, and `source` does not exist.
        ArgumentError: One of them was given.
    """
    for name, given in options.items():
        if given and source != "-" and not Path(source).exists():
            raise InputError(f"no such folder: {source}")
        if given:
            raise ArgumentError(f"--{name.replace('_', '-')}: IN is not a folder")
