"""Training recipes: frozen dataclasses read from TOML. Unknown keys are errors."""

import dataclasses
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from denoiser.errors import RecipeError

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Network:
    """Shape of a `ConvAutoencoder`."""

    channels: tuple[int, ...] = (48, 96, 192)
    """Width of each level, finest first; every level below the first halves the resolution."""
    blocks: int = 2
    """Residual blocks per level, in the encoder and again in the decoder."""
    unshuffle: int = 2
    """Pixel-unshuffle factor before the first convolution."""


@dataclasses.dataclass(frozen=True)
class Corruption:
    """What is done to clean crops before the network sees them."""

    sigma: tuple[float, float] = (0.0, 60.0)
    """Range of the Gaussian noise level on the 0-255 scale, drawn uniformly per crop."""
    clip_share: float = 0.0
    """Share of crops whose noisy values are clipped to [0, 1], as 8-bit files have them."""
    grey_share: float = 0.0
    """Share of crops turned grey, with the same noise in all three channels."""


@dataclasses.dataclass(frozen=True)
class Training:
    """Optimisation: AdamW with linear warm-up and a cosine to zero, weights averaged (EMA)."""

    steps: int = 20_000
    batch: int = 8
    crop_px: int = 96
    rate: float = 1e-3
    warmup_steps: int = 500
    weight_decay: float = 1e-4
    largest_gradient: float = 0.25
    """Norm to which the gradient is clipped; a few times what an L1 loss has in good health."""
    ema_decay: float = 0.999
    loss: str = "l1"
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that determines a training run, apart from its images."""

    name: str
    network: Network = Network()
    corruption: Corruption = Corruption()
    training: Training = Training()

    def __post_init__(self) -> None:
        """Reject impossible values now rather than an hour into the run."""
        low, high = self.corruption.sigma
        shares = (self.corruption.clip_share, self.corruption.grey_share)
        stride = self.network.unshuffle * 2 ** (len(self.network.channels) - 1)
        training = self.training
        whole = (*self.network.channels, self.network.blocks, self.network.unshuffle)
        whole += (training.steps, training.batch, training.crop_px, training.warmup_steps)
        if not all(isinstance(value, int) for value in whole):
            raise RecipeError(f"recipe {self.name}: channels, counts and sizes are whole numbers")
        checks = {
            "training.rate and largest_gradient must be positive": min(
                training.rate, training.largest_gradient
            )
            > 0,
            "training.ema_decay must lie in 0-1": 0 <= training.ema_decay < 1,
            "network.channels must be positive": min(self.network.channels, default=0) > 0,
            "network.blocks and network.unshuffle must be at least 1": min(
                self.network.blocks, self.network.unshuffle
            )
            >= 1,
            "corruption.sigma must be [low, high] with 0 <= low <= high": 0 <= low <= high,
            "shares must lie in 0-1": all(0 <= share <= 1 for share in shares),
            "training.loss must be l1 or charbonnier": self.training.loss in ("l1", "charbonnier"),
            f"training.crop_px must be a multiple of the stride {stride}": self.training.crop_px > 0
            and self.training.crop_px % stride == 0,
            "training.steps and training.batch must be positive": min(
                self.training.steps, self.training.batch
            )
            > 0,
        }
        for message, holds in checks.items():
            if not holds:
                raise RecipeError(f"recipe {self.name}: {message}")

    def to_json(self) -> str:
        """Serialise for checkpoints and model metadata; `from_json` reads it back."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Recipe":
        """Read what `to_json` wrote."""
        return _build(cls, json.loads(text), "recipe")


def load_recipe(path: Path) -> Recipe:
    """Read a recipe from TOML.

    Raises:
        RecipeError: The file is missing, is no TOML, or holds an unknown key or a bad value.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"cannot read recipe {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"recipe {path} is no TOML: {error}") from error
    return _build(Recipe, {"name": path.stem, **table}, str(path))


def _build(cls: type[T], table: Mapping[str, Any], where: str) -> T:
    """Fill the dataclass `cls` from `table`, section by section."""
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(table) - set(fields))
    if unknown:
        raise RecipeError(f"{where}: unknown key {unknown[0]!r}; known: {', '.join(fields)}")
    values = {}
    for name, value in table.items():
        kind = fields[name].type
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            if not isinstance(value, Mapping):
                raise RecipeError(f"{where}: {name} is a section, not a value")
            value = _build(kind, value, f"{where} [{name}]")
        elif isinstance(value, list):
            value = tuple(value)
        values[name] = value
    try:
        return cls(**values)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"{where}: {error}") from error
