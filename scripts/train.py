"""Train a model on folders of pictures: `train.py --images FOLDER --out RUN`."""

import dataclasses
from pathlib import Path

import click
import torch

from denoiser.cli import run, say
from denoiser.errors import ArgumentError, DeviceError
from denoiser.training.dataset import Crops, load_pictures
from denoiser.training.export import read_weights
from denoiser.training.recipe import load_recipe
from denoiser.training.trainer import Trainer

RECIPES = Path(__file__).parent / "recipes"


@click.command(context_settings={"show_default": True})
@click.option("--recipe", "recipe_name", default="gaussian", help="Name in recipes/, or a .toml.")
@click.option(
    "--images",
    type=click.Path(path_type=Path),
    required=True,
    multiple=True,
    help="Folder of clean pictures, walked, tar files included. May be given several times.",
)
@click.option(
    "--validation",
    type=click.Path(path_type=Path),
    help="Folder of other pictures to measure on; without it nothing is measured.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder of the run: checkpoint.pt, log.csv, validation.png.",
)
@click.option("--resume", is_flag=True, help="Go on from the checkpoint in OUT.")
@click.option(
    "--init", type=click.Path(path_type=Path), help="Start from the weights of an exported model."
)
@click.option("--steps", type=click.IntRange(1), help="Instead of the recipe's.")
@click.option("--device", default="auto", help="auto, cpu or cuda.")
@click.option("--precision", type=click.Choice(["auto", "fp32", "bf16"]), default="auto")
@click.option("--threads", type=click.IntRange(0), default=0, help="CPU threads; 0 = all.")
def main(
    recipe_name: str,
    images: tuple[Path, ...],
    validation: Path | None,
    out: Path,
    resume: bool,
    init: Path | None,
    steps: int | None,
    device: str,
    precision: str,
    threads: int,
) -> None:
    """Train a model. Interrupt it whenever you like: --resume goes on where it stopped."""
    path = Path(recipe_name)
    recipe = load_recipe(path if path.suffix == ".toml" else RECIPES / f"{recipe_name}.toml")
    if steps:
        recipe = dataclasses.replace(
            recipe, training=dataclasses.replace(recipe.training, steps=steps)
        )
    checkpoint = out / "checkpoint.pt"
    if checkpoint.exists() and not resume:
        raise ArgumentError(f"{checkpoint} exists: give --resume to go on, or another --out")
    if threads:
        torch.set_num_threads(threads)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise DeviceError("this torch finds no GPU")

    trainer = Trainer(recipe, torch.device(device), precision)
    if resume:
        trainer.resume(checkpoint)
    elif init:
        trainer.load_weights(read_weights(init)[1])
    crop_px = recipe.training.crop_px
    pictures = [picture for folder in images for picture in load_pictures(folder, crop_px, say)]
    megapixels = sum(picture.size for picture in pictures) / 3e6
    say(f"{len(pictures)} pictures, {megapixels:.0f} megapixels; training on {device}")
    crops = Crops(pictures, crop_px, trainer.device)
    del pictures
    held_out = load_pictures(validation, crop_px) if validation else []
    trainer.run(crops, held_out, out, report=say)
    say(f"done: export it with scripts/export.py {checkpoint} models/NAME.onnx")


if __name__ == "__main__":
    run(main)
