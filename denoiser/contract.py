"""What a model promises, as docs/models.md has it."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from denoiser.errors import ModelError

LARGEST_STRIDE = 512


@dataclasses.dataclass(frozen=True)
class Contract:
    """What a model promises, read from its metadata; defaults are those of a foreign model."""

    inputs: tuple[str, ...]
    """Of `image`, `sigma`, `hole`; a foreign model's image input counts as `image`."""
    task: str = "denoise"
    stride: int = 1
    """Height and width of a batch must be multiples of it."""
    estimates: bool = False
    """Whether it finds the noise level itself where `sigma` is negative: -k asks for k times its
    estimate, which it also returns."""
    halo: int = 48
    """Context in pixels after which tiled and whole results agree where the noise level is told."""
    noise_halo: int = 48
    """The same where the model estimates the level."""
    sigma_range: tuple[float, float] = (0.0, 1.0)
    """Noise levels it was trained for, in [0, 1] units."""
    stacks: bool = True
    """Whether a batch may hold more than one image."""
    name: str = ""


def parse_contract(
    name: str, found: Mapping[str, str], inputs: tuple[str, ...], estimates: bool
) -> Contract:
    """Read a contract from a model's metadata.

    Args:
        name: Of the model, for errors and where the metadata has none.
        found: The metadata.
        inputs: Names of the inputs.
        estimates: Whether the model gives a noise map.

    Raises:
        ModelError: Something is missing or out of range.
    """
    try:
        low, high = (float(value) for value in found["sigma_range"].split())
        halo = int(found["halo"])
        noise_halo = int(found.get("noise_halo", halo))
        stride = int(found["stride"])
        if not (1 <= stride <= LARGEST_STRIDE and min(halo, noise_halo) >= 0 and 0 <= low <= high):
            raise ValueError("stride, halo or sigma_range out of range")
        return Contract(
            inputs=inputs,
            task=found["task"],
            estimates=estimates,
            stride=stride,
            halo=halo,
            noise_halo=noise_halo,
            sigma_range=(low, high),
            name=found.get("name", Path(name).stem),
        )
    except (KeyError, ValueError) as error:
        raise ModelError(f"{name} has unusable metadata: {error}") from error
