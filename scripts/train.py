"""Train a model on folders of pictures: `train.py --images FOLDER --out RUN`.

On several GPUs: `torchrun --nproc-per-node N scripts/train.py ...`.
"""

import dataclasses
import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import click
import torch
from torch import distributed

from denoiser.console import run, say
from denoiser.errors import (
    ArgumentError,
    DeviceError,
    InputError,
    OutOfMemoryError,
)
from denoiser.files import check_folder, lie_within_each_other, locked
from denoiser.options import NamedPath, Number
from denoiser.training.dataset import Crops, read_pictures
from denoiser.training.export import SMALLEST_PX as EXPORT_PX
from denoiser.training.export import read_weights
from denoiser.training.recipe import Recipe, load_recipe
from denoiser.training.trainer import Trainer
from denoiser.training.validation import centre

RECIPES = Path(__file__).parent / "recipes"


@click.command("train.py", context_settings={"show_default": True})
@click.option(
    "--recipe",
    "recipe_name",
    help="Name in recipes/, or a .toml.  [default: gaussian; with --noisy: noisy]",
)
@click.option(
    "--images",
    type=NamedPath(),
    multiple=True,
    help="Folder of clean pictures, walked, tar files included, or a tar file. May be given several"
    " times.",
)
@click.option(
    "--noisy",
    type=NamedPath(),
    multiple=True,
    help="Folder of noisy pictures to learn from alone, instead of --images; likewise.",
)
@click.option(
    "--validation",
    type=NamedPath(),
    help="Folder of other pictures to measure on (with --noisy: to look at).",
)
@click.option(
    "--out",
    type=NamedPath(),
    required=True,
    help="Folder of the run: checkpoint.pt, log.csv, curves.png, validation.png.",
)
@click.option("--resume", is_flag=True, help="Go on from the checkpoint in OUT.")
@click.option("--init", type=NamedPath(), help="Start from the weights of an exported model.")
@click.option("--steps", type=click.IntRange(1), help="Instead of the recipe's.")
@click.option("--device", default="auto", help="auto, cpu, cuda or cuda:N.")
@click.option("--precision", type=click.Choice(["auto", "fp32", "bf16"]), default="auto")
@click.option("--threads", type=click.IntRange(0), default=0, help="CPU threads; 0 = torch's own.")
@click.option(
    "--budget-mp",
    type=Number(0, min_open=True),
    default=1000,
    help="Megapixels of pictures to hold in memory, at 3 bytes a pixel. Each picture may have an"
    " equal share; larger ones are cut to random windows.",
)
def main(
    recipe_name: str | None,
    images: tuple[Path, ...],
    noisy: tuple[Path, ...],
    validation: Path | None,
    out: Path,
    resume: bool,
    init: Path | None,
    steps: int | None,
    device: str,
    precision: str,
    threads: int,
    budget_mp: float,
) -> None:
    """Train a model. Interrupt it whenever you like: --resume goes on where it stopped."""
    recipe = load_recipe(find_recipe(recipe_name or ("noisy" if noisy else "gaussian")))
    recipe.check_purpose()
    if steps:
        recipe = dataclasses.replace(
            recipe, training=dataclasses.replace(recipe.training, steps=steps)
        )
    check_pictures(recipe, images, noisy, validation, out)
    checkpoint = out / "checkpoint.pt"
    if checkpoint.exists() and not resume:
        raise ArgumentError(f"{checkpoint} exists: give --resume to go on, or another --out")
    if resume and init:
        raise ArgumentError("--resume goes on from the checkpoint: leave out --init")
    if recipe.training.learns != "all" and not (resume or init):
        raise ArgumentError(
            f"recipe {recipe.name} trains the {recipe.training.learns} alone: give --init"
        )
    if resume and not checkpoint.exists():
        raise InputError(f"no checkpoint to go on from: {checkpoint}")
    torch.set_flush_denormal(True)  # a CPU is slow at what fades towards zero
    if threads:
        torch.set_num_threads(threads)
    place, first = join_processes(device)

    def tell(line: str) -> None:
        if first:
            say(line)

    if first:
        check_folder(out)
        out.mkdir(parents=True, exist_ok=True)
        alone = locked(out / ".lock", f"another training writes into {out}")
        click.get_current_context().with_resource(alone)
    crop_px, stride = recipe.training.crop_px, recipe.network.stride
    try:
        trainer = Trainer(recipe, place, precision)
        if resume:
            trainer.resume(checkpoint)
            tell(f"going on at step {trainer.step} of {recipe.training.steps}")
        elif init:
            trainer.start_from(*read_weights(init))
        pictures = list(read_pictures(images or noisy, crop_px, tell, budget_mp=budget_mp))
        held_out = pictures[:8] if noisy else []  # looked at, not measured
        longest = max(min(picture.shape[:2]) for picture in pictures)
        if validation:
            longest, held_out = 0, []
            for picture in read_pictures([validation], crop_px, tell):
                longest = max(longest, min(picture.shape[:2]))
                held_out.append(centre(picture, stride).copy())  # the rest need not be held
        megapixels = sum(picture.size for picture in pictures) / 3e6
        on = f"{trainer.processes} x {place.type}" if trainer.processes > 1 else str(place)
        tell(f"{len(pictures)} pictures, {megapixels:.3g} megapixels; training on {on}")
        crops = Crops(pictures, crop_px, place)  # which empties the list
        trainer.run(crops, held_out, out, report=tell)
    except (MemoryError, RuntimeError) as error:
        lacks = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not lacks and "DefaultCPUAllocator" not in str(error):
            raise
        raise OutOfMemoryError(
            f"out of memory on {place}: choose a smaller batch or crop_px in the recipe, or"
            " a smaller --budget-mp"
        ) from error
    named = str(validation or (images or noisy)[0])
    if longest < EXPORT_PX:
        named = f"PHOTOGRAPHS_OF_{EXPORT_PX}x{EXPORT_PX}_OR_MORE"
    exporter = str(Path(sys.argv[0]).with_name("export.py"))
    words = ["python", exporter, str(checkpoint), "NAME.onnx", "--images", named]
    tell(f"done: export it with {shlex.join(words)}")
    if distributed.is_initialized():
        leave_processes()


def check_pictures(
    recipe: Recipe,
    images: Sequence[Path],
    noisy: Sequence[Path],
    validation: Path | None,
    out: Path,
) -> None:
    """Refuse folders of pictures that the recipe cannot learn from, or that are in the way.

    Raises:
        ArgumentError: There are none or too many, or two of them overlap, or hold `out`.
        InputError: One does not exist.
    """
    if bool(images) == bool(noisy):
        raise ArgumentError("give either --images with clean pictures or --noisy")
    if bool(noisy) != (recipe.training.supervision == "neighbor2neighbor"):
        wanted = "--images" if noisy else "--noisy"
        raise ArgumentError(f"recipe {recipe.name} learns from {wanted}")
    for folder in (*images, *noisy, *([validation] if validation else [])):
        if not folder.exists():
            raise InputError(f"no such folder: {folder}")
        if out.resolve().is_relative_to(folder.resolve()):
            raise ArgumentError(f"--out {out} lies among the pictures of {folder}")
        if validation and folder in images and lie_within_each_other(folder, validation):
            raise ArgumentError(f"--images {folder} and --validation {validation} overlap")


def find_recipe(name: str) -> Path:
    """Find a recipe by its name in recipes/, or the path of a .toml.

    Raises:
        ArgumentError: There is none of that name.
    """
    if name.endswith(".toml"):
        return Path(name)
    path = RECIPES / f"{name}.toml"
    if not path.is_file():
        texts = {found.stem: found.read_text(encoding="utf-8") for found in RECIPES.glob("*.toml")}
        known = ", ".join(sorted(stem for stem, text in texts.items() if "[network]" in text))
        raise ArgumentError(f"no recipe {name!r}; there are {known}; or give a .toml")
    return path


def join_processes(device: str) -> tuple[torch.device, bool]:
    """Choose the device, one GPU per process under `torchrun`; also say whether this is the first.

    Raises:
        ArgumentError: There is no such kind of device.
        DeviceError: A GPU was asked for and there is none of that number.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise ArgumentError(f"unknown device {device!r}: auto, cpu, cuda or cuda:N")
    launched = distributed.is_torchelastic_launched()
    if device == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK'] if launched else 0}"
    elif device != "cpu" and launched:
        raise ArgumentError("torchrun gives each process its own GPU: --device cuda")
    if device != "cpu":
        if int(device.removeprefix("cuda:")) >= torch.cuda.device_count():
            raise DeviceError(f"this torch finds {torch.cuda.device_count()} GPUs, no {device}")
        torch.cuda.set_device(device)
    if not launched:
        return torch.device(device), True
    distributed.init_process_group("gloo" if device == "cpu" else "nccl")
    return torch.device(device), distributed.get_rank() == 0


def leave_processes() -> NoReturn:
    """End all processes together, without taking the interpreter down thread by thread.

    Threads of torch that want the interpreter's lock while it ends abort the process now and then
    ("terminate called without an active exception", pytorch issue 38230).
    """
    distributed.barrier()  # the first one validates and draws when the others are done
    distributed.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    run(main)
