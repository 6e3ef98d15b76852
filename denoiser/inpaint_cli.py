"""The command `inpaint`."""

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import click

from denoiser.console import (
    Show,
    device_options,
    run,
    showing_options,
    with_options,
    writing_options,
)
from denoiser.errors import ArgumentError

if TYPE_CHECKING:
    from denoiser.console import Advance
    from denoiser.engine import Model
    from denoiser.images import Picture


def parse_grain(text: str) -> float:
    """Turn `auto` or a share into a share."""
    if text == "auto":
        return 1.0
    try:
        share = float(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is neither auto nor a number") from error
    if not 0 <= share <= 1:
        raise click.BadParameter(f"{text} is not in 0-1")
    return share


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("paths", metavar="IN MASK OUT", nargs=-1, required=True)
@click.option(
    "--mask",
    "mask_from",
    type=click.Choice(["file", "alpha"]),
    default="file",
    show_default=True,
    help="alpha: what is transparent in IN is filled, and there is no MASK.",
)
@click.option("--invert-mask", is_flag=True, help="Fill where the mask is black.")
@click.option("--soft", is_flag=True, help="Greys of the mask are a soft edge, not cut at half.")
@click.option("--dilate", "dilate_px", type=click.IntRange(0, 1000), default=0, metavar="PIXELS")
@click.option(
    "--feather",
    "feather_px",
    type=click.FloatRange(0, 1000),
    default=0.0,
    metavar="PIXELS",
    help="Blend over so many pixels inside the hole.",
)
@click.option(
    "--grain",
    "grain_share",
    type=parse_grain,
    default="auto",
    show_default=True,
    metavar="auto|0..1",
    help="How much of the noise around the hole is put into the filling; auto = 1.",
)
@click.option(
    "-m",
    "--model",
    metavar="NAME|FILE",
    help="A released model, or a path to an .onnx file.  [default: inpaint]",
)
@with_options(device_options)
@with_options(writing_options)
@with_options(showing_options)
def inpaint(
    paths: tuple[str, ...],
    mask_from: Literal["file", "alpha"],
    invert_mask: bool,
    soft: bool,
    dilate_px: int,
    feather_px: float,
    grain_share: float,
    model: str | None,
    device: str,
    require_gpu: bool,
    precision: Literal["auto", "fp32", "fp16"],
    threads: int,
    format_name: str | None,
    quality: int | None,
    bit_depth: Literal["keep", "8", "16"],
    strip_metadata: bool,
    suffix: str,
    overwrite: bool,
    skip_existing: bool,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Fill the white parts of MASK in picture IN and write it to OUT.

    Outside of them not one pixel changes. MASK has the size of IN; half white and more is filled.
    IN and OUT may be - for standard input and output.
    """
    wanted = 3 if mask_from == "file" else 2
    if len(paths) != wanted:
        raise ArgumentError(f"give {'IN MASK OUT' if wanted == 3 else 'IN OUT'}")
    source, target = paths[0], paths[-1]

    from denoiser import catalog, images, job, masks, single

    mask = images.read(Path(paths[1])) if mask_from == "file" else None
    settings = job.Filling(
        format=single.forced_format(format_name),
        quality=quality,
        depth=bit_depth,
        strip_metadata=strip_metadata,
        feather_px=feather_px,
        grain_share=grain_share,
    )

    shape = functools.partial(masks.hole_of, invert=invert_mask, soft=soft, dilate_px=dilate_px)

    def fill(picture: "Picture", model: "Model", progress: "Advance | None") -> dict[str, Any]:
        if mask:
            hole = shape(masks.from_picture(mask, picture, paths[1]))
            return job.fill(picture, hole, model, settings, progress)
        hole = shape(masks.from_alpha(picture))
        report = job.fill(picture, hole, model, settings, progress)
        masks.make_opaque(picture, hole)
        return report

    load = functools.partial(
        catalog.load,
        model,
        task="inpaint",
        device=device,
        require_gpu=require_gpu,
        precision=precision,
        threads=threads,
    )
    single.process(
        source,
        target,
        settings,
        load,
        fill,
        single.Options(suffix, overwrite=overwrite, skip_existing=skip_existing),
        Show(dry_run=dry_run, as_json=as_json, quiet=quiet, verbose=verbose),
    )


def inpaint_main() -> NoReturn:
    """Entry point of `inpaint`."""
    run(inpaint)
