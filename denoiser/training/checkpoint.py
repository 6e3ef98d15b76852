"""State of a training run on disk, and weights carried over to another recipe's network."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from denoiser.errors import InputError, OutputError, RecipeError
from denoiser.files import whole_file
from denoiser.training.autoencoder import Context, ConvAutoencoder, ResidualBlock
from denoiser.training.recipe import Recipe

SAME_NETWORK = ("skips", "phases", "code_activation")
"""What leaves no trace in weights, and yet decides what they mean."""


def save_checkpoint(state: Mapping[str, Any], path: Path) -> None:
    """Write a run's state; the file appears under its name only when whole.

    Raises:
        OutputError: It cannot be written.
    """
    try:
        with whole_file(path, overwrite=True) as file:
            torch.save(state, file)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint without running code from it.

    Raises:
        InputError: The file is missing or no checkpoint.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        complete = {"recipe", "step", "model", "ema", "optimizer"} <= set(state)
    except OSError as error:
        raise InputError(f"cannot read checkpoint {path}: {error.strerror}") from error
    except Exception as error:  # torch and pickle raise many kinds
        raise InputError(f"{path} is damaged or no checkpoint") from error
    if not complete:
        raise InputError(f"{path} is not a checkpoint of a training run")
    if "n_averaged" in state["ema"]:
        raise InputError(f"{path} was written by an earlier version, which averaged otherwise")
    return state


def carry_over(
    source: Recipe, weights: Mapping[str, Tensor], target: Recipe, network: ConvAutoencoder
) -> None:
    """Put weights that were trained by one recipe into another's network.

    Blocks, an estimator or levels of it that they lack stay untrained, and so do, where they were
    trained for another task, the tail and what the head makes of the noise map or hole.

    Args:
        source: What the weights were trained by.
        weights: State dictionary of a `ConvAutoencoder`.
        target: What the network is made by.
        network: Untrained; gets the weights.

    Raises:
        RecipeError: The weights belong to another network.
    """
    for field in SAME_NETWORK:
        theirs, wanted = getattr(source.network, field), getattr(target.network, field)
        if theirs != wanted:
            raise RecipeError(
                f"the weights to start from have network.{field} = {theirs}, not {wanted}"
            )
    own, taken = network.state_dict(), dict(weights)
    may_lack = ["estimator.layers."]
    for name, module in network.named_modules():
        if isinstance(module, Context):
            may_lack.append(f"{name}.")
        if isinstance(module, ResidualBlock) and not name.startswith("estimator."):
            may_lack.append(f"{name}.")
            if (bias := f"{name}.conv2.bias") not in taken:
                own[bias].zero_()  # it starts as the identity
    try:
        if source.network.task != target.network.task:
            may_lack.append("tail.")
            other = ("estimator.", "tail.")
            taken = {name: taken[name] for name in taken if not name.startswith(other)}
            heads = (taken["head.weight"], own["head.weight"])
            inputs = 3 * network.factor**2  # of the image; those of the guide come after it
            taken["head.weight"] = torch.cat([heads[0][:, :inputs], heads[1][:, inputs:]], 1)
        for part in may_lack:
            if not any(name.startswith(part) for name in taken):
                taken |= {name: own[name] for name in own if name.startswith(part)}
        network.load_state_dict(taken)
    except RuntimeError as error:
        raise RecipeError(
            "the weights to start from belong to another network: give their --recipe"
        ) from error
