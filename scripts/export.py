"""Export a trained run to ONNX with its card: `export.py RUN/checkpoint.pt models/NAME.onnx`."""

import contextlib
import json
from itertools import islice
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor

from denoiser.catalog import read_card
from denoiser.console import run, say
from denoiser.errors import ArgumentError, ModelError, OutputError
from denoiser.files import check_file, write_text
from denoiser.training.checkpoint import load_checkpoint
from denoiser.training.dataset import Crops, read_pictures
from denoiser.training.dead import find_dead
from denoiser.training.export import SMALLEST_PX, export
from denoiser.training.recipe import Recipe
from denoiser.training.trainer import Trainer

PICTURES = 24


@click.command("export.py", context_settings={"show_default": True})
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
@click.option(
    "--images",
    type=click.Path(path_type=Path),
    required=True,
    help=f"Folder of photographs of {SMALLEST_PX}x{SMALLEST_PX} or more, any will do; the first"
    f" {PICTURES} serve to check parity and measure the halo.",
)
@click.option("--overwrite", is_flag=True, help="Replace TARGET and its card.")
@click.option(
    "--prune",
    is_flag=True,
    help="Leave out hidden channels that let nothing through on IMAGES with the recipe's"
    " corruption: the model gets smaller and faster. Refused where it changes a result by more"
    " than a step of 8 bits.",
)
@click.option("--version", default="1")
@click.option("--license", default="not stated", help="SPDX identifier of the weights' licence.")
@click.option("--summary", default="", help="One line for the card.")
@click.option("--trained-on", default="", help="What the card says about the training pictures.")
def main(
    checkpoint: Path,
    target: Path,
    images: Path,
    overwrite: bool,
    prune: bool,
    version: str,
    license: str,
    summary: str,
    trained_on: str,
) -> None:
    """Export CHECKPOINT's averaged weights to TARGET (.onnx) and write the card beside it."""
    if target.suffix != ".onnx":
        raise ArgumentError(f"{target} must end in .onnx")
    for text in (target.stem, version, license, summary, trained_on):
        if not text.isprintable():
            raise ArgumentError(f"{text!r} cannot stand in a card")
    card_path = target.with_suffix(".toml")
    if card_path.exists() and not _is_card(card_path):  # a recipe may have that name
        raise OutputError(f"{card_path} is no model's card: choose another name for the model")
    for path in (target, card_path):
        if path.exists() and not overwrite:
            raise OutputError(f"{path} exists: give --overwrite to replace it")
        check_file(path)
    state = load_checkpoint(checkpoint)
    recipe = Recipe.from_json(state["recipe"])
    if state["step"] < recipe.training.steps:
        say(f"warning: the training is at step {state['step']} of {recipe.training.steps}")
    pictures = list(islice(read_pictures([images], SMALLEST_PX, say), PICTURES))
    dead = _find_dead(recipe, state["ema"], pictures) if prune else None
    facts = export(
        recipe,
        state["ema"],
        target,
        pictures,
        name=target.stem,
        version=version,
        license=license,
        dead=dead,
    )
    pixels = state["step"] * recipe.training.pixels_per_step
    card = {
        "name": target.stem,
        "summary": summary or f"trained by recipe {recipe.name}",
        "version": version,
        "license": license,
        **facts,
        "recipe": recipe.name,
        "sigma_range": list(recipe.sigma_range),
        "training_steps": state["step"],
        "training_gigapixels": round(pixels / 1e9, 3),
        "training_data": trained_on or "not stated",
    }
    # of numbers, lists and Unicode that is not escaped JSON is TOML
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in card.items()]
    write_text(card_path, "".join(lines))
    if prune:
        say(
            f"{facts.get('dead_channels_left_out', 0)} dead channels left out, which changes"
            f" results by {facts.get('largest_change_by_it', 0)} at most"
        )
    say(
        f"{target}: {facts['parameters']} parameters, halo {facts['halo']} pixels,"
        f" differs from torch by {facts['largest_difference_from_torch']}"
    )


def _find_dead(
    recipe: Recipe, weights: dict[str, Tensor], pictures: list[np.ndarray]
) -> dict[str, Tensor]:
    trainer = Trainer(recipe, torch.device("cpu"), "fp32")
    trainer.start_from(recipe, weights)
    crops = Crops(list(pictures), min(recipe.training.crop_px, SMALLEST_PX), trainer.device)
    return find_dead(trainer.model, lambda: trainer.look(crops))


def _is_card(path: Path) -> bool:
    with contextlib.suppress(ModelError):
        return bool(read_card(path))
    return False


if __name__ == "__main__":
    run(main)
