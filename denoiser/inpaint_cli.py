"""The command `inpaint`."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal, NoReturn

import click

from denoiser.console import run
from denoiser.errors import ArgumentError, InputError
from denoiser.options import Number, Shared, auto_or_number, look_up, shared_options

if TYPE_CHECKING:
    from denoiser.defects import Kind


def parse_kinds(text: str) -> tuple[str, ...]:
    """Split `scratches,dust`."""
    if not text:
        return ()
    from denoiser.defects import KINDS  # and OpenCV, which takes its time

    asked = text.split(",")
    for kind in asked:
        if kind not in KINDS:
            raise click.BadParameter(f"{kind!r} is neither {' nor '.join(KINDS)}")
    return tuple(kind for kind in KINDS if kind in asked)


def parse_grain(text: str) -> float:
    """Turn `auto` or a share into a share."""
    share = auto_or_number(text, 1)
    return 1.0 if share == "auto" else share


def check_mask_out(mask_out: Path, source: Path, mask: Path | None, out: Path) -> None:
    """Refuse to write masks among pictures that are read or written, or under a false name.

    Raises:
        ArgumentError: It would replace IN, MASK or OUT, lie among their pictures, or is no .png.
        OutputError: Nothing can be written there.
    """
    from denoiser.files import check_file, check_writable, lie_within_each_other

    if mask_out == Path("-") or (mask_out.is_dir() and not source.is_dir()):
        raise ArgumentError(f"--save-mask is a file, or a folder if IN is one, not {mask_out}")
    if not source.is_dir() and mask_out.suffix.lower() != ".png":
        raise ArgumentError(f"--save-mask writes PNG: give {mask_out.with_suffix('.png')}")
    for what, path in {"IN": source, "MASK": mask or source, "OUT": out}.items():
        folders = source.is_dir() or path.is_dir()
        among = folders and lie_within_each_other(mask_out, path)
        if among or mask_out.resolve() == path.resolve():
            raise ArgumentError(f"--save-mask and {what} lie within each other: keep them apart")
    check = check_writable if source.is_dir() else check_file
    check(mask_out)


def check_mask(name: str, source: Path, out: Path | None) -> Path:
    """Refuse a mask that is missing, would be overwritten, or be filled as a picture of IN.

    Raises:
        InputError: It does not exist, or that cannot be found out.
        ArgumentError: It is OUT, or holds it, or lies in the folders IN or OUT or around them.
    """
    from denoiser.files import lie_within_each_other

    mask = Path(name)
    if name == "-":
        raise ArgumentError("MASK is a file or a folder, not standard input")
    if not name or look_up(name) is None:
        raise InputError(f"no such mask: {name or '(empty name)'}")
    if out and out.exists() and out.samefile(mask):
        raise ArgumentError("MASK and OUT are the same: the mask is never overwritten")
    for what, path in {"IN": source, "OUT": out}.items():
        folders = source.is_dir() or (what == "OUT" and mask.is_dir())
        if path and folders and lie_within_each_other(mask, path):
            raise ArgumentError(f"MASK and {what} lie within each other: keep them apart")
    if source.is_dir() and not (mask.is_dir() or mask.is_file()):
        raise ArgumentError("MASK must be a file or a folder when IN is a folder")
    return mask


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("paths", metavar="IN MASK OUT", nargs=-1, required=True)
@click.option(
    "--mask",
    "mask_from",
    type=click.Choice(["file", "alpha"]),
    default="file",
    show_default=True,
    help="alpha: fill what is less than half opaque in IN, and make it opaque; there is no MASK.",
)
@click.option(
    "--detect",
    type=parse_kinds,
    default="",
    metavar="scratches,dust",
    help="Find these defects of scans and fill them; there is no MASK.",
)
@click.option(
    "--save-mask",
    "mask_out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the mask that was used, as PNG; a folder of masks if IN is a folder. Masks of"
    " earlier runs are replaced unless they were edited.",
)
@click.option("--invert-mask", is_flag=True, help="Fill where the mask is black.")
@click.option(
    "--soft",
    is_flag=True,
    help="Treat greys of the mask as a soft edge instead of cutting them at half.",
)
@click.option(
    "--dilate",
    "dilate_px",
    type=click.IntRange(0, 1000),
    default=0,
    metavar="PIXELS",
    help="Grow the hole by this many pixels.",
)
@click.option(
    "--feather",
    "feather_px",
    type=Number(0, 1000),
    default=0.0,
    metavar="PIXELS",
    help="Blend over this many pixels, inside the hole.",
)
@click.option(
    "--grain",
    "grain_share",
    type=parse_grain,
    default="auto",
    show_default=True,
    metavar="auto|0..1",
    help="Share of the surrounding noise to add to the filling; auto = 1.",
)
@click.option(
    "-m",
    "--model",
    metavar="NAME|FILE",
    help="A released model, or a path to an .onnx file.  [default: inpaint]",
)
@shared_options
def inpaint(
    paths: tuple[str, ...],
    mask_from: Literal["file", "alpha"],
    detect: "tuple[Kind, ...]",
    mask_out: Path | None,
    invert_mask: bool,
    soft: bool,
    dilate_px: int,
    feather_px: float,
    grain_share: float,
    model: str | None,
    shared: Shared,
) -> None:
    """Fill the white parts of MASK in picture IN and write it to OUT.

    Nothing outside of them changes, except for what a lossy format does to every pixel. MASK has
    the size of IN; whatever is at least half white is filled. IN and OUT may be - for standard
    input and output. If IN is a folder, so is OUT, and MASK is one picture for all or a folder with
    a mask of the same stem for each.
    """
    if detect and (mask_from == "alpha" or invert_mask or soft):
        raise ArgumentError(
            "--detect makes the mask: not with --mask alpha, --invert-mask or --soft"
        )
    wanted = 3 if mask_from == "file" and not detect else 2
    if len(paths) != wanted:
        raise ArgumentError(f"give {'IN MASK OUT' if wanted == 3 else 'IN OUT'}")
    source, target = paths[0], paths[-1]
    of_folder = shared.check(source, target)
    if mask_from == "alpha" and feather_px:
        raise ArgumentError("--feather would let invisible colours be seen: not with --mask alpha")

    from denoiser.job import Inpainting
    from denoiser.single import resolve_target

    common, out = shared.common(), Path(target) if of_folder else None
    if not of_folder:
        out = resolve_target(source, target, shared.suffix, common["format"])
    mask = check_mask(paths[1], Path(source), out) if wanted == 3 else None
    if mask_out:
        check_mask_out(mask_out, Path(source), mask, out or Path(target))
    job = Inpainting(
        mask=mask,
        detect=detect,
        mask_out=mask_out,
        replace_masks=shared.overwrite,
        is_folder=of_folder,
        invert=invert_mask,
        soft=soft,
        dilate_px=dilate_px,
        feather_px=feather_px,
        grain_share=grain_share,
        **common,
    )
    shared.process(source, target, job, model)


def inpaint_main() -> NoReturn:
    """Entry point of `inpaint`."""
    run(inpaint)
