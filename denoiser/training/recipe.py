"""Training recipes: frozen dataclasses read from TOML. Unknown keys are errors."""

import dataclasses
import json
import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from denoiser.errors import RecipeError
from denoiser.training.corruption import KINDS, Step, levels_of
from denoiser.training.holes import Holes

T = TypeVar("T")
ESTIMATOR_STRIDE = 8
"""Pixels of the image per value, in each direction, of an estimated noise map."""
COARSEST_PX = 32
"""Side of the largest squares whose means fill a hole before the network sees it."""


@dataclasses.dataclass(frozen=True)
class Network:
    """Shape of a `ConvAutoencoder`: which member of the family it is."""

    channels: tuple[int, ...] = (48, 96, 192)
    """Width of each level, finest first; every level below the first halves the resolution."""
    blocks: int = 2
    """Residual blocks per level, in the encoder and again in the decoder."""
    unshuffle: int = 2
    """Pixel-unshuffle factor before the first convolution."""
    skips: bool = True
    """Whether the decoder sees the encoder's levels and the image; without, only the code."""
    noise_map: bool = True
    """Whether the noise level is an input; without, the network sees the image alone."""
    hole: bool = False
    """Whether it fills holes: where they are is an input instead of the noise level."""
    detects: bool = False
    """Whether it finds defects: how likely they cover a pixel is the output, see
    `corruption.Defects`."""
    code_channels: int = 0
    """Width of the code; 0 is that of the last level."""
    code_activation: str = "linear"
    """linear, relu or sigmoid."""
    estimator: int = 0
    """Width of a small network that estimates the noise level where none is given; 0 is none."""
    estimator_levels: int = 0
    """Levels below 1/8 of the resolution, each half as fine as the last, to see farther."""
    fade: float = 10.0
    """Noise level on the 0-255 scale below which a network with an estimator fades its change out,
    so that a clean picture stays as it is."""
    phases: int = 1
    """Take the picture apart into phases x phases interleaved ones and restore each alone: noise
    that neighbouring pixels share becomes white."""

    @property
    def task(self) -> str:
        """What the model is for, as its contract names it."""
        return "inpaint" if self.hole else "detect" if self.detects else "denoise"

    @property
    def guided(self) -> bool:
        """Whether a noise map or a hole goes with the image."""
        return self.noise_map or self.hole

    @property
    def stride(self) -> int:
        """Pixels of which height and width must be multiples."""
        own = self.phases * self.unshuffle << (len(self.channels) - 1)
        if self.estimator:
            own = math.lcm(own, ESTIMATOR_STRIDE << self.estimator_levels)
        return max(own, COARSEST_PX) if self.hole else own


@dataclasses.dataclass(frozen=True)
class Penalties:
    """Terms added to the loss to shape the code, see `penalties`."""

    sparsity: str = "none"
    """none, l1 or kl; kl needs a sigmoid code."""
    sparsity_weight: float = 0.0
    rho: float = 0.05
    """Mean activation that kl wants of each unit."""
    contraction: float = 0.0
    """Weight of the Jacobian's squared norm."""
    probes: int = 1
    """Random vectors to estimate that norm from, where the code is not small."""


@dataclasses.dataclass(frozen=True)
class Training:
    """Optimisation: linear warm-up of the rates and a cosine to zero, weights averaged (EMA)."""

    steps: int = 20_000
    batch: int = 8
    crop_px: int = 96
    rate: float = 1e-3
    """Full rate of AdamW."""
    muon_rate: float = 0.0
    """Full rate of Muon for the kernels of hidden convolutions; 0 leaves them to AdamW."""
    warmup_steps: int = 500
    """Steps until the full rate; a quarter of all where that is less."""
    weight_decay: float = 1e-4
    largest_gradient: float = 0.25
    """Norm to which the gradient is clipped; a few times what an L1 loss has in good health."""
    ema_decay: float = 0.999
    loss: str = "l1"
    """l1, l2, charbonnier or weighted-l1, see `objective.distance`; holes and defects have
    their own."""
    gradient_weight: float = 0.0
    """Weight of the error of gradients in a hole, see `objective.hole_distance`."""
    supervision: str = "clean"
    """clean, or neighbor2neighbor: learn from noisy pictures alone."""
    told: float = 0.25
    """Share of the crops whose noise level a network with an estimator is told."""
    estimate_weight: float = 0.1
    """Weight of the estimator's error, see `objective.level_distance`."""
    learns: str = "all"
    """all, or of a network with an estimator only that, or only the restorer."""
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that determines a training run, apart from its images."""

    name: str
    network: Network = Network()
    corruption: tuple[Step, ...] = ()
    holes: Holes = dataclasses.field(default_factory=Holes)
    """For a network that fills them."""
    penalties: Penalties = Penalties()
    training: Training = Training()

    def __post_init__(self) -> None:
        """Reject impossible values now rather than an hour into the run."""
        network, penalties, training = self.network, self.penalties, self.training
        kinds = {int: "a whole number", bool: "true or false", str: "a text", float: "a number"}
        for section in (network, penalties, training):
            for field in dataclasses.fields(section):
                wanted, value = field.type, getattr(section, field.name)
                fits = type(value) is wanted or (wanted is float and type(value) is int)
                if wanted in kinds and not fits:
                    raise RecipeError(f"recipe {self.name}: {field.name} must be {kinds[wanted]}")
        if not all(type(width) is int for width in network.channels):
            raise RecipeError(f"recipe {self.name}: channels must be whole numbers")
        learns_alone = training.supervision == "neighbor2neighbor"
        halves = learns_alone or (network.hole and self.holes.guessed > 0)
        multiple = max(1, network.stride * (2 if halves else 1)) if network.channels else 1
        checks = {
            "network.channels must be positive": min(network.channels, default=0) > 0,
            "network.unshuffle and phases must be at least 1": min(
                network.unshuffle, network.phases
            )
            >= 1,
            "network.blocks and code_channels must not be negative": min(
                network.blocks, network.code_channels
            )
            >= 0,
            "network.code_activation must be linear, relu or sigmoid": network.code_activation
            in ("linear", "relu", "sigmoid"),
            "penalties.sparsity must be none, l1 or kl": penalties.sparsity in ("none", "l1", "kl"),
            "penalties.sparsity = 'kl' needs network.code_activation = 'sigmoid'": (
                penalties.sparsity != "kl" or network.code_activation == "sigmoid"
            ),
            "penalties.rho must lie between 0 and 1": 0 < penalties.rho < 1,
            "penalties.sparsity needs a sparsity_weight above 0, and none without": (
                (penalties.sparsity == "none") == (penalties.sparsity_weight == 0)
                and 0 <= penalties.sparsity_weight < math.inf
            ),
            "penalties.contraction must not be negative": 0 <= penalties.contraction < math.inf,
            "penalties.probes must be at least 1": penalties.probes >= 1,
            "training.rate must be positive": 0 < training.rate < math.inf,
            "training.muon_rate must not be negative": 0 <= training.muon_rate < math.inf,
            "training.largest_gradient must be positive": training.largest_gradient > 0,
            "training.warmup_steps must not be negative": training.warmup_steps >= 0,
            "training.weight_decay must not be negative": 0 <= training.weight_decay < math.inf,
            "training.ema_decay must lie in 0-1": 0 <= training.ema_decay < 1,
            "training.loss must be l1, l2, charbonnier or weighted-l1": training.loss
            in ("l1", "l2", "charbonnier", "weighted-l1"),
            "training.told must lie in 0-1": 0 <= training.told <= 1,
            "training.estimate_weight and gradient_weight must not be negative": (
                0 <= training.estimate_weight < math.inf
                and 0 <= training.gradient_weight < math.inf
            ),
            "network.estimator and estimator_levels must not be negative": (
                network.estimator >= 0 and network.estimator_levels >= 0
            ),
            "network.fade must be positive": 0 < network.fade < math.inf,
            "training.learns must be all, or estimator or restorer where there is an estimator": (
                training.learns == "all"
                or (training.learns in ("estimator", "restorer") and network.estimator > 0)
            ),
            "network.estimator needs noise_map and skips, and phases = 1": (
                not network.estimator
                or (network.noise_map and network.skips and network.phases == 1)
            ),
            "network.hole needs skips and noise_map = false, phases = 1, supervision = 'clean'"
            " and a stride that is a power of two": (
                not network.hole
                or (
                    network.skips
                    and network.stride.bit_count() == 1
                    and not network.noise_map
                    and network.phases == 1
                    and not learns_alone
                )
            ),
            "network.detects needs skips and noise_map = false, phases = 1, supervision = 'clean'"
            " and corruption by defects": (
                not network.detects
                or (
                    network.skips
                    and not network.guided
                    and network.phases == 1
                    and not learns_alone
                    and any(step.kind == "defects" for step in self.corruption)
                )
            ),
            "training.supervision must be clean or neighbor2neighbor": training.supervision
            in ("clean", "neighbor2neighbor"),
            "neighbor2neighbor cannot be told the noise: network.noise_map = false": (
                not (learns_alone and network.noise_map)
            ),
            f"training.crop_px must be a multiple of {multiple}": training.crop_px > 0
            and training.crop_px % multiple == 0,
            "training.steps and training.batch must be positive": min(
                training.steps, training.batch
            )
            > 0,
        }
        for message, holds in checks.items():
            if not holds:
                raise RecipeError(f"recipe {self.name}: {message}")

    @property
    def sigma_range(self) -> tuple[float, float]:
        """Noise levels, 0-255, that are trained for; 0-255 if there are none."""
        low, high = levels_of(self.corruption)
        return (low, min(high, 255.0)) if high else (0.0, 255.0)

    def to_json(self) -> str:
        """Serialise for checkpoints and model metadata; `from_json` reads it back."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Recipe":
        """Read what `to_json` wrote."""
        return _build(cls, json.loads(text), "recipe")


def load_recipe(path: Path) -> Recipe:
    """Read a recipe from TOML; `corruption = "other"` takes that of other.toml beside it.

    Raises:
        RecipeError: The file is missing, is no TOML, or holds an unknown key or a bad value.
    """
    table = _read_table(path)
    if isinstance(other := table.get("corruption"), str):
        shared = path.parent / f"{other}.toml"
        table["corruption"] = _read_table(shared).get("corruption")
        if not isinstance(table["corruption"], list):
            raise RecipeError(f"{shared} has no list of corruption")
    return _build(Recipe, {"name": path.stem, **table}, str(path))


def _read_table(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"recipe {path} is no TOML: {error}") from error
    except (OSError, ValueError) as error:  # a name may be impossible
        reason = getattr(error, "strerror", None) or error
        raise RecipeError(f"cannot read recipe {path}: {reason}") from error


def _build(cls: type[T], table: Mapping[str, Any], where: str) -> T:
    """Fill the dataclass `cls` from `table`, section by section."""
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
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
        elif kind == tuple[Step, ...]:
            value = _steps(value, f"{where} {name}")
        elif isinstance(value, list):
            value = tuple(value)
        values[name] = value
    try:
        return cls(**values)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"{where}: {error}") from error


def _steps(tables: Any, where: str) -> tuple[Step, ...]:
    """Read the list of corruption steps."""
    if not isinstance(tables, list) or not all(isinstance(table, Mapping) for table in tables):
        raise RecipeError(f"{where}: a list of steps, each with its kind")
    steps = []
    for table in tables:
        kind = table.get("kind")
        if not isinstance(kind, str) or kind not in KINDS:
            raise RecipeError(f"{where}: unknown kind {kind!r}; known: {', '.join(KINDS)}")
        options = {key: value for key, value in table.items() if key != "kind"}
        steps.append(_build(KINDS[kind], options, f"{where} {kind}"))
    return tuple(steps)
