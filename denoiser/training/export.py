"""torch -> ONNX: parity check, measured halo, metadata, card; and back again."""

import copy
import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from denoiser import tiles
from denoiser.engine import Model
from denoiser.errors import InputError, ModelError, RecipeError
from denoiser.files import sha256_of, whole_file
from denoiser.training.autoencoder import ConvAutoencoder
from denoiser.training.dead import prune
from denoiser.training.holes import GUESS
from denoiser.training.recipe import Recipe

OPSET = 17
LARGEST_DIFFERENCE = 1e-4
"""Between torch and onnxruntime, in [0, 1] units."""
LARGEST_CHANGE = 1 / 255
"""By what `dead.prune` leaves out, in [0, 1] units."""
HALO_DIFFERENCE = 0.1 / 255
"""Between a tile's core and the whole image, for the halo to count as wide enough."""
SMALLEST_PX, LARGEST_PX = 256, 512
"""Side of the pictures that an export needs, and of what it uses of larger ones."""
SIGMAS = (0, 15, 50)  # noise levels, 0-255, at which parity and halo are checked


class _WithNoise(nn.Module):
    """A network with an estimator as its file has it: the noise map is a second output."""

    def __init__(self, network: ConvAutoencoder) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return self.network.restore(image, sigma)


def export(
    recipe: Recipe,
    weights: Mapping[str, Tensor],
    target: Path,
    pictures: Sequence[np.ndarray],
    *,
    name: str,
    version: str,
    license: str,
    dead: Mapping[str, Tensor] | None = None,
) -> dict[str, object]:
    """Write a model that keeps the contract, or nothing.

    Args:
        recipe: What the weights were trained by.
        weights: State dictionary of a `ConvAutoencoder`.
        target: The ONNX file to write.
        pictures: (H, W, 3) uint8 photographs, 256 pixels or more on each side, on which parity is
            checked and the halo measured.
        name: The model's name in its metadata.
        version: Its version.
        license: SPDX identifier of the weights' licence.
        dead: Channels to leave out, from `dead.find_dead`.

    Returns:
        Facts for the card: parameters, stride, halos, largest difference, sha256.

    Raises:
        ModelError: onnxruntime and torch differ by more than `LARGEST_DIFFERENCE`, or what is left
            out changes a result by more than `LARGEST_CHANGE`.
        InputError: `pictures` are too small to measure the halo.
    """
    whole = ConvAutoencoder(recipe.network)
    whole.load_state_dict(dict(weights))
    network = copy.deepcopy(whole.eval())
    left_out = prune(network, dead or {})
    halos = {"halo": measure_halo(network, pictures)}
    if network.estimator is not None:
        halos["noise_halo"] = measure_halo(network, pictures, estimating=True)
    low, high = recipe.sigma_range
    metadata = {
        "task": recipe.network.task,
        "stride": str(network.stride),
        **{key: str(halo) for key, halo in halos.items()},
        "sigma_range": f"{low / 255:.6f} {high / 255:.6f}",
        "name": name,
        "version": version,
        "license": license,
        "recipe": recipe.to_json(),
    }
    data = to_onnx(network, metadata)
    model = Model(data, device="cpu")
    difference = largest_difference(network, model, pictures)
    if not difference <= LARGEST_DIFFERENCE:
        raise ModelError(
            f"not exported: onnxruntime and torch differ by {difference:.2g},"
            f" more than {LARGEST_DIFFERENCE:.0e}"
        )
    change = largest_difference(whole, model, pictures) if left_out else 0.0
    if not change <= LARGEST_CHANGE:
        raise ModelError(
            f"not exported: leaving {left_out} channels out changes results by {change:.2g},"
            f" more than {LARGEST_CHANGE:.1g}"
        )
    pruned = {"dead_channels_left_out": left_out, "largest_change_by_it": float(f"{change:.2g}")}
    with whole_file(target, overwrite=True) as file:
        file.write(data)
    return {
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        **(pruned if left_out else {}),
        "stride": network.stride,
        **halos,
        "largest_difference_from_torch": float(f"{difference:.2g}"),
        "sha256": sha256_of(target),
    }


def to_onnx(network: ConvAutoencoder, metadata: Mapping[str, str]) -> bytes:
    """Trace a network and add metadata.

    Initializers are named as in the state dictionary, behind `network.` where there is an
    estimator.
    """
    side = 4 * network.stride
    inputs = {"image": torch.zeros(1, 3, side, side)}
    if network.guided:
        inputs["hole" if network.hole else "sigma"] = torch.zeros(1, 1, side, side)
    outputs = ["cover" if network.detects else "restored"]
    if network.estimator:
        outputs.append("noise")
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # the exporter based on torch.export needs onnxscript and cannot say "multiple of 8"
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _WithNoise(network) if network.estimator else network,
            tuple(inputs.values()),
            buffer,  # type: ignore[arg-type]
            dynamo=False,
            opset_version=OPSET,
            do_constant_folding=False,  # or kernels would lose their names
            input_names=list(inputs),
            output_names=outputs,
            dynamic_axes={
                name: {
                    0: "N",
                    2: "h" if name == "noise" else "H",
                    3: "w" if name == "noise" else "W",
                }
                for name in (*inputs, *outputs)
            },
        )
    model = onnx.load_from_string(buffer.getvalue())
    onnx.helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def largest_difference(
    network: ConvAutoencoder, model: Model, pictures: Sequence[np.ndarray]
) -> float:
    """Largest absolute difference between torch and onnxruntime at three sizes and noise levels.

    A network with an estimator is also asked to find the level itself; its noise maps count too.
    """
    sides = ((5, 7), (16, 9), (24, 24))  # in strides; none is the traced size
    worst = 0.0
    for picture, (rows, columns) in zip(_cycled(pictures, 3), sides, strict=True):
        for level in SIGMAS:
            image, sigma = _noisy(picture, rows * network.stride, columns * network.stride, level)
            ways = _guides(network, sigma)
            if network.estimator is not None:
                ways.append(torch.full_like(sigma, -1))
            for told in ways:
                with torch.inference_mode():
                    expected, noise = network.restore(image, told)
                found, found_noise = model.run_with_noise(image.numpy(), told.numpy())
                worst = max(worst, float(np.abs(expected.numpy() - found).max()))
                if found_noise is not None:
                    worst = max(worst, float(np.abs(noise.numpy() - found_noise).max()))
    return worst


def measure_halo(
    network: ConvAutoencoder, pictures: Sequence[np.ndarray], *, estimating: bool = False
) -> int:
    """Context in pixels beyond which a tile's pixels agree with those of the whole image.

    The right half of each picture is restored alone; the halo is the distance from the cut after
    which no pixel differs by more than `HALO_DIFFERENCE`, rounded up to the stride.

    Args:
        network: In evaluation mode.
        pictures: (H, W, 3) uint8; of larger ones `LARGEST_PX`.
        estimating: Whether it finds the noise level itself.

    Raises:
        InputError: It sees farther than half of the largest, and that is smaller.
    """
    farthest, widest, seen = 0, 0, 0  # `seen`: side of those that are seen to their end
    for picture in pictures:
        step = 2 * network.stride
        side = max(step, min(*picture.shape[:2], LARGEST_PX) // step * step)
        widest = max(widest, side)
        for level in SIGMAS:
            image, sigma = _noisy(picture, side, side, level)
            half = side // network.stride // 2 * network.stride
            ways = [torch.full_like(sigma, -1)] if estimating else _guides(network, sigma)
            for told in ways:
                with torch.inference_mode():
                    whole = network(image, told)[..., half:]
                    alone = network(image[..., half:], told[..., half:])
                columns = (whole - alone).abs().amax((0, 1, 2))  # by distance from the cut
                differing = torch.nonzero(columns > HALO_DIFFERENCE)
                if len(differing):
                    reach = int(differing.max()) + 1
                    farthest = max(farthest, reach)
                    seen = max(seen, side if reach == side - half else 0)
    if seen == widest < LARGEST_PX // step * step:
        raise InputError(
            f"the network sees farther than half of {widest} pixels: give at least one picture of"
            f" {LARGEST_PX}x{LARGEST_PX} or more"
        )
    return tiles.padded(farthest, network.stride)


def read_weights(path: Path) -> tuple[Recipe, dict[str, Tensor]]:
    """Read recipe and weights back from an exported model, to go on training.

    Channels that were left out are there again, and dead: their kernels are zero.

    Raises:
        ModelError: The file is no model that `export` wrote.
        RecipeError: Its recipe is not one of today's.
    """
    try:
        model = onnx.load(path)
        metadata = {entry.key: entry.value for entry in model.metadata_props}
        recipe = Recipe.from_json(metadata["recipe"])
        weights = {
            tensor.name.removeprefix("network."): torch.from_numpy(
                onnx.numpy_helper.to_array(tensor).copy()
            )
            for tensor in model.graph.initializer
        }
        known = ConvAutoencoder(recipe.network).state_dict()
        return recipe, {name: _widened(name, weights[name], known[name].shape) for name in known}
    except RecipeError:
        raise
    except OSError as error:
        raise ModelError(f"cannot read model {path}: {error.strerror}") from error
    except Exception as error:  # protobuf and onnx raise many kinds
        raise ModelError(f"{path} was not written by scripts/export.py") from error


def _widened(name: str, weight: Tensor, shape: torch.Size) -> Tensor:
    """Put zeros where hidden channels of a residual block were left out."""
    if ".conv1." not in name and ".conv2." not in name:
        return weight
    whole = torch.zeros(shape, dtype=weight.dtype)
    whole[tuple(map(slice, weight.shape))] = weight
    return whole


def _guides(network: ConvAutoencoder, sigma: Tensor) -> list[Tensor]:
    """What a network may be told: the level, or holes."""
    if network.hole:  # a chequered one, so that there are holes everywhere
        rows, columns = (torch.arange(length) // 12 for length in sigma.shape[2:])
        hole = ((rows[:, None] + columns) % 3 == 0).float().expand_as(sigma)
        return [hole, GUESS * hole]
    return [sigma]


def _cycled(pictures: Sequence[np.ndarray], count: int) -> list[np.ndarray]:
    return [pictures[index % len(pictures)] for index in range(count)]


def _noisy(picture: np.ndarray, height: int, width: int, level: int) -> tuple[Tensor, Tensor]:
    below, beside = max(0, height - picture.shape[0]), max(0, width - picture.shape[1])
    large = np.pad(picture, ((0, below), (0, beside), (0, 0)), mode="symmetric")[:height, :width]
    clean = torch.from_numpy(large.copy()).permute(2, 0, 1)[None].float() / 255
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(level))
    return clean + level / 255 * noise, torch.full_like(clean[:, :1], level / 255)
