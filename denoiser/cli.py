"""The commands `denoise` and `denoiser`."""

from pathlib import Path
from typing import Literal, NoReturn

import click

from denoiser.console import run
from denoiser.denoiser_cli import denoiser
from denoiser.errors import ArgumentError
from denoiser.options import Number, Shared, auto_or_number, shared_options

LONGEST_S = 86400


def parse_on_success(text: str) -> tuple[bool, Path | None]:
    """Turn `keep`, `delete` or `archive:FOLDER` into whether to delete, and where to move to."""
    if text in ("keep", "delete"):
        return text == "delete", None
    kind, _, folder = text.partition(":")
    if kind != "archive" or not folder:
        raise click.BadParameter(f"{text!r} is neither keep, delete nor archive:FOLDER")
    try:
        return False, Path(folder).expanduser()  # shells do not, after the colon
    except RuntimeError as error:
        raise click.BadParameter(f"{text!r}: there is no such home folder") from error


def parse_sigma(text: str) -> float | Literal["auto"]:
    """Turn `auto` or a noise level on the 0-255 scale into "auto" or a level in [0, 1]."""
    level = auto_or_number(text, 255)
    return "auto" if level == "auto" else level / 255


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("source", metavar="IN")
@click.argument("target", metavar="OUT")
@click.option(
    "-m",
    "--model",
    metavar="fast|balanced|best|NAME|FILE",
    help="A released model, or a path to an .onnx file.  [default: balanced; on a GPU best]",
)
@click.option(
    "--sigma",
    type=parse_sigma,
    metavar="auto|N",
    default="auto",
    show_default=True,
    help="Noise standard deviation on the 0-255 scale; the released models know 0-60.",
)
@click.option(
    "--strength",
    type=Number(0, 1),
    default=1.0,
    show_default=True,
    help="Share of the noise to remove.",
)
@click.option(
    "--chroma",
    type=Number(0, 1),
    help="Share of the colour noise to remove, leaving grey grain.  [default: as --strength]",
)
@click.option(
    "-t",
    "--tile",
    "tile_px",
    type=click.IntRange(0),
    default=0,
    help="Side of the tiles in pixels, a few hundred or more; 0 = auto.",
)
@click.option(
    "--max-memory",
    "max_memory_mb",
    type=click.IntRange(1),
    metavar="MB",
    help="Choose smaller tiles to stay within about this much memory.",
)
@click.option(
    "-w",
    "--watch",
    is_flag=True,
    help="Keep running and restore pictures as they arrive in IN.",
)
@click.option(
    "--settle",
    "settle_s",
    type=Number(0, LONGEST_S),
    metavar="SECONDS",
    help="With --watch: how long a file must be unchanged before it is read.  [default: 2]",
)
@click.option(
    "--poll",
    "poll_s",
    type=Number(0, LONGEST_S, min_open=True),
    metavar="SECONDS",
    help="With --watch: look this often, for network shares that report no changes.",
)
@click.option(
    "--on-success",
    type=parse_on_success,
    default="keep",
    show_default=True,
    metavar="keep|archive:FOLDER|delete",
    help="With --watch: what to do with an original once its result is safely written. Originals"
    " of which the result lacks anything are never deleted.",
)
@shared_options
def denoise(
    source: str,
    target: str,
    model: str | None,
    sigma: float | Literal["auto"],
    strength: float,
    chroma: float | None,
    tile_px: int,
    max_memory_mb: int | None,
    watch: bool,
    settle_s: float | None,
    poll_s: float | None,
    on_success: tuple[bool, Path | None],
    shared: Shared,
) -> None:
    """Remove the noise from picture IN and write it to OUT; - is standard input or output.

    If IN is a folder, so is OUT, and every picture in it is restored; a second run does only what
    is left. OUT has the format of its name and keeps the bit depth, transparency, colour profile,
    EXIF, XMP and resolution of IN. IN is never modified, unless --on-success asks for it.
    """
    shared.check(source, target, watch=watch)
    needs_watch = {
        "--settle": settle_s is not None,
        "--poll": poll_s is not None,
        "--on-success": any(on_success),
    }
    for name, given in needs_watch.items():
        if given and not watch:
            raise ArgumentError(f"{name} only works with --watch")
    if watch and shared.fail_fast:
        raise ArgumentError("--watch goes on whatever fails: leave out --fail-fast")

    from denoiser.job import Denoising
    from denoiser.watch import Rules

    job = Denoising(
        sigma=sigma,
        strength=strength,
        chroma=chroma,
        tile_px=tile_px,
        max_memory_mb=max_memory_mb,
        **shared.common(),
    )
    delete, archive = on_success
    rules = Rules(
        settle_s=Rules.settle_s if settle_s is None else settle_s,
        poll_s=poll_s or 0.0,
        delete=delete,
        archive=archive,
    )
    shared.process(source, target, job, model, rules if watch else None)


def denoise_main() -> NoReturn:
    """Entry point of `denoise`."""
    run(denoise)


def denoiser_main() -> NoReturn:
    """Entry point of `denoiser`."""
    run(denoiser)
