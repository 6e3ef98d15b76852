"""Training recipes: frozen dataclasses read from TOML. Unknown keys are errors."""

import dataclasses
import json
import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from denoiser.errors import RecipeError
from denoiser.training.checks import check_types, refuse_unless
from denoiser.training.corruption import KINDS, every, levels_of
from denoiser.training.holes import Holes
from denoiser.training.step import Step

T = TypeVar("T")
ESTIMATOR_STRIDE = 8
"""Pixels of the image per value, in each direction, of an estimated noise map."""
LOSSES = ("l1", "l2", "charbonnier", "rmse", "weighted-l1", "weighted-rmse")
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

    def __post_init__(self) -> None:
        """Reject impossible values, raising ValueError."""
        check_types(self)
        needs = self.skips and not self.noise_map and self.phases == 1
        refuse_unless(
            {
                "channels must be positive": min(self.channels) > 0,
                "unshuffle and phases must be at least 1": min(self.unshuffle, self.phases) >= 1,
                "blocks, code_channels, estimator and estimator_levels must not be negative": (
                    min(self.blocks, self.code_channels, self.estimator, self.estimator_levels) >= 0
                ),
                "code_activation must be linear, relu or sigmoid": (
                    self.code_activation in ("linear", "relu", "sigmoid")
                ),
                "fade must be positive": 0 < self.fade < math.inf,
                "estimator needs noise_map and skips, and phases = 1": (
                    not self.estimator or (self.noise_map and self.skips and self.phases == 1)
                ),
                "hole needs skips and noise_map = false, phases = 1": not self.hole or needs,
                "detects needs skips and noise_map = false, phases = 1, and no hole": (
                    not self.detects or (needs and not self.hole)
                ),
            }
        )
        if self.hole and self.stride.bit_count() != 1:
            raise ValueError("hole needs a stride that is a power of two")

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

    def __post_init__(self) -> None:
        """Reject impossible values, raising ValueError."""
        check_types(self)
        refuse_unless(
            {
                "sparsity must be none, l1 or kl": self.sparsity in ("none", "l1", "kl"),
                "sparsity needs a sparsity_weight above 0, and none without": (
                    (self.sparsity == "none") == (self.sparsity_weight == 0)
                    and 0 <= self.sparsity_weight < math.inf
                ),
                "rho must lie between 0 and 1": 0 < self.rho < 1,
                "contraction must not be negative": 0 <= self.contraction < math.inf,
                "probes must be at least 1": self.probes >= 1,
            }
        )


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
    """One of `LOSSES`, see `objective.distance`; holes and defects have their own."""
    gradient_weight: float = 0.0
    """Weight of the error of gradients in a hole, see `objective.hole_distance`."""
    supervision: str = "clean"
    """clean, or neighbor2neighbor: learn from noisy pictures alone."""
    told: float = 0.25
    """Share of the crops whose noise level a network with an estimator is told."""
    estimate_weight: float = 0.1
    """Weight of the estimator's error, see `objective.level_distance`."""
    revive_every: int = 1000
    """Steps after which dead channels are started afresh, see `dead.revive`; the first time at the
    start, the last before the last quarter. 0 is never."""
    learns: str = "all"
    """all, or of a network with an estimator only that, or only the restorer."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Reject impossible values, raising ValueError."""
        check_types(self)
        refuse_unless(
            {
                "steps, batch and crop_px must be positive": (
                    min(self.steps, self.batch, self.crop_px) > 0
                ),
                "rate must be positive": 0 < self.rate < math.inf,
                "muon_rate must not be negative": 0 <= self.muon_rate < math.inf,
                "warmup_steps must not be negative": self.warmup_steps >= 0,
                "weight_decay must not be negative": 0 <= self.weight_decay < math.inf,
                "largest_gradient must be positive": self.largest_gradient > 0,
                "ema_decay must lie in 0-1": 0 <= self.ema_decay < 1,
                f"loss must be one of {', '.join(LOSSES)}": self.loss in LOSSES,
                "gradient_weight must not be negative": 0 <= self.gradient_weight < math.inf,
                "supervision must be clean or neighbor2neighbor": (
                    self.supervision in ("clean", "neighbor2neighbor")
                ),
                "revive_every must not be negative": self.revive_every >= 0,
                "told must lie in 0-1": 0 <= self.told <= 1,
                "estimate_weight must not be negative": 0 <= self.estimate_weight < math.inf,
                "seed must lie in 0-1000000000": 0 <= self.seed <= 10**9,
                "learns must be all, estimator or restorer": (
                    self.learns in ("all", "estimator", "restorer")
                ),
            }
        )

    @property
    def pixels_per_step(self) -> int:
        """Pixels of the crops of one step."""
        return self.batch * self.crop_px**2


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
        """Reject what does not go together now rather than an hour into the run.

        Raises:
            RecipeError: Two sections contradict each other; each has checked itself before.
        """
        network, penalties, training = self.network, self.penalties, self.training
        learns_alone = training.supervision == "neighbor2neighbor"
        halves = learns_alone or (network.hole and self.holes.guessed > 0)
        multiple = network.stride * (2 if halves else 1)
        trained_by_defects = any(step.kind == "defects" for step in every(self.corruption))
        rules = {
            "penalties.sparsity = 'kl' needs network.code_activation = 'sigmoid'": (
                penalties.sparsity != "kl" or network.code_activation == "sigmoid"
            ),
            "training.learns other than all needs network.estimator": (
                training.learns == "all" or network.estimator > 0
            ),
            "network.hole and detects need training.supervision = 'clean'": (
                not learns_alone or network.task == "denoise"
            ),
            "network.detects and corruption by defects need each other": (
                network.detects == trained_by_defects
            ),
            "neighbor2neighbor cannot be told the noise: network.noise_map = false": (
                not (learns_alone and network.noise_map)
            ),
            f"training.crop_px must be a multiple of {multiple}": training.crop_px % multiple == 0,
        }
        self._refuse_unless(rules)

    @property
    def sigma_range(self) -> tuple[float, float]:
        """Noise levels, 0-255, that are trained for; 0-255 if there are none."""
        low, high = levels_of(self.corruption)
        return (min(low, 255.0), min(high, 255.0)) if high else (0.0, 255.0)

    def check_purpose(self) -> None:
        """Refuse to train a recipe that teaches nothing, or something else than it seems to.

        Models of such recipes can still be read.

        Raises:
            RecipeError: It is one.
        """
        network, corruption = self.network, self.corruption
        learns_alone = self.training.supervision == "neighbor2neighbor"
        kinds = [step.kind for step in corruption]
        defects = kinds.index("defects") if "defects" in kinds else len(kinds)
        behind = {step.kind for step in every(corruption[defects:])}
        inside = {step.kind for step in every(corruption)} - set(kinds)
        rules = {
            "without corruption a network with skips learns to copy": (
                bool(corruption) or not network.skips or network.hole or learns_alone
            ),
            "no corruption has a level: set network.noise_map = false": (
                not network.noise_map or network.estimator > 0 or levels_of(corruption)[1] > 0
            ),
            "neighbor2neighbor needs training.loss = 'l2', which is least at the mean": (
                not learns_alone or self.training.loss == "l2"
            ),
            "defects cannot stand inside either": "defects" not in inside,
            "grey and zoom must come before defects, which say where they are": (
                behind.isdisjoint({"grey", "zoom"})
            ),
        }
        self._refuse_unless(rules)

    def _refuse_unless(self, rules: Mapping[str, bool]) -> None:
        try:
            refuse_unless(rules)
        except ValueError as error:
            raise RecipeError(f"recipe {self.name}: {error}") from error

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
        RecipeError: The file is missing, is not TOML, or holds an unknown key or a bad value.
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
        raise RecipeError(f"recipe {path} is not TOML: {error}") from error
    except (OSError, ValueError) as error:  # a name may be impossible
        reason = getattr(error, "strerror", None) or error
        raise RecipeError(f"cannot read recipe {path}: {reason}") from error


def _build(cls: type[T], table: Mapping[str, Any], where: str) -> T:
    """Fill the dataclass `cls` from `table`, section by section."""
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
    unknown = sorted(set(table) - set(fields))
    if unknown:
        raise RecipeError(f"{where}: unknown key {unknown[0]!r}; known: {', '.join(fields)}")
    missing = [
        name
        for name, field in fields.items()
        if field.default is field.default_factory is dataclasses.MISSING and name not in table
    ]
    if missing:
        raise RecipeError(f"{where}: {', '.join(missing)} must be given")
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
