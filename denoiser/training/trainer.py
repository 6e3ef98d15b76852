"""One training loop: schedule, EMA, checkpoint, resume, several processes."""

import copy
import dataclasses
import importlib.util
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from denoiser.errors import RecipeError, TrainingError
from denoiser.files import sweep
from denoiser.signals import uninterrupted
from denoiser.training.autoencoder import ConvAutoencoder
from denoiser.training.checkpoint import carry_over, load_checkpoint, save_checkpoint
from denoiser.training.dataset import Crops
from denoiser.training.dead import revive
from denoiser.training.examples import Apply, Examples
from denoiser.training.losses import Losses
from denoiser.training.objective import Objective
from denoiser.training.optimizer import Optimizer
from denoiser.training.recipe import Recipe, Training
from denoiser.training.validation import (
    LABELS,
    Log,
    draw_curves,
    show,
    validate,
    validate_defects,
    validate_holes,
)

LOOKS = 16  # batches on which a channel must be silent to count as dead
FIRST_STEPS = 10  # after which a person is told how long it will take


def schedule(step: int, training: Training) -> float:
    """Share of the full rate: linear warm-up, then half a cosine to zero at the last step."""
    warmup_steps = min(training.warmup_steps, training.steps // 4)
    warmup = min(1.0, (step + 1) / max(1, warmup_steps))
    progress = min(1.0, max(0, step - warmup_steps) / max(1, training.steps - warmup_steps))
    return warmup * 0.5 * (1 + math.cos(math.pi * progress))


@torch.no_grad()
def _average(averaged: nn.Module, current: nn.Module, step: int, decay: float) -> None:
    """Exponential moving average; its decay grows as (1 + n) / (10 + n), to forget the start.

    torch's `AveragedModel` counts on the device and waits for it at every step.
    """
    old: list[Tensor] = list(averaged.parameters())
    new: list[Tensor] = list(current.parameters())
    torch._foreach_lerp_(old, new, 1 - min(decay, (1 + step) / (10 + step)))


def _compiles(device: torch.device) -> bool:
    """Whether `torch.compile` can work: triton compiles its launcher in C."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    return device.type == "cuda" and bool(importlib.util.find_spec("triton") and compiler)


def supports_bf16(device: torch.device) -> bool:
    """Whether bf16 is faster than fp32 on this device (on a CPU: AVX-512 BF16 or AMX)."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


class Trainer:
    """A training run: its state, and the loop that moves it forward.

    Two runs of the same recipe on the same pictures, CPU, precision and thread count make the same
    weights, whether or not one of them was stopped and resumed. Under `torchrun` every process
    takes its share of each batch, so several processes take the steps that one would, apart from
    rounding and the random probes of a contractive term.
    """

    def __init__(self, recipe: Recipe, device: torch.device, precision: str = "auto") -> None:
        """Build the network and its optimiser.

        Args:
            recipe: What to train and how.
            device: Where to train.
            precision: "fp32", "bf16" or "auto" (bf16 where it is faster).

        Raises:
            RecipeError: The batch cannot be shared out evenly among the processes.
        """
        torch.manual_seed(recipe.training.seed)
        self.rank, self.processes = 0, 1
        if distributed.is_initialized():
            self.rank, self.processes = distributed.get_rank(), distributed.get_world_size()
        if recipe.training.batch % self.processes:
            raise RecipeError(
                f"a batch of {recipe.training.batch} cannot be shared by {self.processes} processes"
            )
        self.recipe, self.device, self.step = recipe, device, 0
        self._revived = 0  # channels, since a person was told
        self._pictures: int | None = None  # checksum of those that the run began with
        self.bf16 = precision == "bf16" or (precision == "auto" and supports_bf16(device))
        self.generator = torch.Generator(device)
        self.model = ConvAutoencoder(recipe.network)
        self.model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if recipe.training.learns != "all":
            assert self.model.estimator is not None
            self.model.requires_grad_(recipe.training.learns == "restorer")
            self.model.estimator.requires_grad_(recipe.training.learns == "estimator")
        self.averaged = copy.deepcopy(self.model).requires_grad_(False)
        """The network with averaged weights: what is measured and exported."""
        networks = self._applied(self.model), self._applied(self.averaged)
        self.examples = Examples(recipe, self.generator, *networks)
        self.optimizer = Optimizer(self.model, recipe.training)
        self.objective: nn.Module = Objective(self.model, recipe, self.generator)
        if self.processes > 1:
            self.objective = DistributedDataParallel(self.objective)
        if _compiles(device) and not recipe.penalties.contraction:  # which differentiates twice
            self.objective = torch.compile(self.objective)  # type: ignore[assignment]

    def start_from(self, recipe: Recipe, weights: Mapping[str, Tensor]) -> None:
        """Start from trained weights, with a fresh optimiser and schedule; see `carry_over`.

        Args:
            recipe: What the weights were trained by.
            weights: State dictionary of a `ConvAutoencoder`.

        Raises:
            RecipeError: The weights belong to another network.
        """
        carry_over(recipe, weights, self.recipe, self.model)
        self.averaged.load_state_dict(self.model.state_dict())

    def save(self, path: Path) -> None:
        """Write a checkpoint; the file appears under its name only when whole.

        Raises:
            OutputError: It cannot be written.
        """
        state = {
            "recipe": self.recipe.to_json(),
            "step": self.step,
            "model": self.model.state_dict(),
            "ema": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "pictures": self._pictures,
        }
        save_checkpoint(state, path)

    def resume(self, path: Path) -> None:
        """Take up a checkpoint exactly where it was written.

        Raises:
            InputError: The file is no checkpoint.
            RecipeError: It was made by another recipe.
        """
        state = load_checkpoint(path)
        known = dataclasses.replace(Recipe.from_json(state["recipe"]), name=self.recipe.name)
        if known != self.recipe:
            raise RecipeError(
                f"{path} was made by another recipe or other --steps: resume with those,"
                " or export it and start from that with --init"
            )
        self.step, self._pictures = state["step"], state.get("pictures")
        self.model.load_state_dict(state["model"])
        self.averaged.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])

    def train_step(self, crops: Crops) -> tuple[Tensor, Tensor]:
        """Take one step on fresh crops.

        Returns:
            The loss without penalties, and the penalties, as tensors that nobody waited for.
        """
        training = self.recipe.training
        # randomness depends on seed and step alone: nothing to save, the same in every process
        seed = training.seed * 1_000_003 + self.step
        every = training.revive_every
        if every and self.step % every == 0 and self.step <= 0.75 * training.steps:
            self._revive(crops, seed)
        self.generator.manual_seed(seed)
        examples = self.examples.draw(crops, slice(self.rank, None, self.processes))
        if self.rank:  # other probes for other crops
            self.generator.manual_seed(seed + (self.rank << 32))
        with self._autocast():
            loss, penalty = self.objective(*examples)
        self.optimizer.zero_grad()
        (loss + penalty).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), training.largest_gradient)
        with uninterrupted():
            self.optimizer.step(schedule(self.step, training))
            _average(self.averaged, self.model, self.step, training.ema_decay)
            self.step += 1
        return loss.detach(), penalty.detach()

    def look(self, crops: Crops) -> None:
        """Run the network on `LOOKS` batches of examples, for `dead` to watch it."""
        for _ in range(LOOKS):
            noisy, sigma, *_ = self.examples.draw(crops)
            with self._autocast():
                guide, _ = self.model.noise_level(noisy, sigma, pooled=True)
                self.model.reconstruct(noisy, guide)

    def _revive(self, crops: Crops, seed: int) -> None:
        """Start dead channels afresh, in the averaged weights too."""
        self.generator.manual_seed(seed)
        torch.manual_seed(seed)
        dead = revive(self.model, lambda: self.look(crops))
        for name, which in dead.items():
            new, old = (
                network.get_submodule(name).state_dict() for network in (self.model, self.averaged)
            )
            for part in ("conv1.weight", "conv1.bias"):
                old[part][which] = new[part][which]
            old["conv2.weight"][:, which] = 0
        if self.processes > 1:  # all have looked at the same, but GPUs round as they like
            for network in (self.model, self.averaged):
                for weight in network.state_dict().values():
                    distributed.broadcast(weight, 0)
        self._revived += sum(int(which.sum()) for which in dead.values())

    def _applied(self, network: ConvAutoencoder) -> Apply:
        """Make a function of a network."""

        @torch.no_grad()
        def apply(image: Tensor, guide: Tensor | None = None) -> Tensor:
            with self._autocast():
                restored, _ = network.reconstruct(image, guide)
            return restored.float()

        return apply

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def run(
        self,
        crops: Crops,
        validation: Sequence[np.ndarray],
        folder: Path,
        *,
        log_every: int = 100,
        validate_every: int = 2000,
        checkpoint_s: float = 120,
        report: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Train to the recipe's last step.

        The first process writes into `folder`: checkpoint.pt, log.csv (one line per `log_every`
        steps), and every `validate_every` steps curves.png and, of validation pictures clean, noisy
        and restored, validation.png. An interrupt saves a checkpoint first.

        Args:
            crops: Training pictures.
            validation: (H, W, 3) uint8 pictures that are not among them; may be empty. Clean ones,
                but for a recipe that learns from noisy ones: they are looked at, not measured.
            folder: Where to write; made if missing.
            log_every: Steps between lines of the log.
            validate_every: Steps between validations and drawings.
            checkpoint_s: Seconds between checkpoints.
            report: Told a line for the person after every line of the log.

        Raises:
            TrainingError: The loss exploded; the last checkpoint is kept.
        """
        folder.mkdir(parents=True, exist_ok=True)
        training, first = self.recipe.training, self.rank == 0
        if first:
            sweep(folder)
        if self._pictures not in (None, crops.checksum):
            report("warning: these are not the pictures that the run began with")
        else:
            self._pictures = crops.checksum
        checkpoint = folder / "checkpoint.pt"
        log = Log(folder / "log.csv", self.step) if first else None
        losses = Losses(self.device)
        started = saved = time.monotonic()
        begun, begun_s = self.step, started
        due = self.step == training.steps or self.step % validate_every == 0
        try:
            if log and due and log.last < self.step:  # it was cut short just there
                self._note(log, {}, validation)
            while self.step < training.steps:
                losses.add(torch.stack(self.train_step(crops)))
                last = self.step == training.steps
                if first and self.step - begun in (1, FIRST_STEPS):  # the next line may be far off
                    losses.newest()  # waits for a GPU; the first step may have compiled
                    if self.step - begun == FIRST_STEPS:
                        pixels = (FIRST_STEPS - 1) * training.pixels_per_step
                        left = self._left(pixels / (time.monotonic() - begun_s))
                        report(f"step {self.step}/{training.steps}  about {left} left")
                    begun_s = time.monotonic()
                if self.step % log_every and not last:
                    continue
                counted = losses.count
                loss, penalty, newest = self._mean_of_all(losses.take())
                if not (losses.are_good(loss + penalty, newest) and self._is_finite()):
                    kept = f" ({checkpoint} is from before)" if checkpoint.exists() else ""
                    raise TrainingError(
                        f"loss {newest:.3g} at step {self.step}: lower the rate{kept}"
                    )
                speed = counted * training.pixels_per_step / (time.monotonic() - started)
                started = time.monotonic()
                if first and (last or started - saved > checkpoint_s):
                    self.save(checkpoint)
                    saved = started
                if log:
                    rate = training.rate * schedule(self.step, training)
                    values = {"loss": loss, "penalty": penalty, "rate": rate}
                    values["kpx_per_s"] = speed / 1e3
                    drawn = self.step % validate_every == 0 or last
                    scores = self._note(log, values, validation if drawn else None)
                    report(self._progress(loss, penalty, speed, scores))
                    started = time.monotonic()
        except KeyboardInterrupt:
            if not first:
                raise
            if losses.are_good(losses.newest()) and self._is_finite():
                with uninterrupted():
                    self.save(checkpoint)
                report(f"{checkpoint} holds step {self.step}: go on with --resume")
            else:
                report("the loss has risen too far: this state is not saved")
            raise

    def _note(
        self, log: Log, values: dict[str, float], validation: Sequence[np.ndarray] | None
    ) -> dict[str, float]:
        """Write a line of the log, with scores and drawings unless `validation` is None."""
        folder = log.path.parent
        scores = self._validate(validation, folder) if validation else {}
        megapixels = self.step * self.recipe.training.pixels_per_step / 1e6
        log.write(self.step, {"megapixels": megapixels} | values | scores)
        if validation is not None:
            draw_curves(log, folder / "curves.png")
        return scores

    def _validate(self, pictures: Sequence[np.ndarray], folder: Path) -> dict[str, float]:
        """Measure on validation pictures, or only show those that nobody has clean."""
        if self.recipe.training.supervision == "neighbor2neighbor":
            show(self.averaged, pictures, self.device, folder)
            return {}
        if self.recipe.network.hole:
            return validate_holes(self.averaged, pictures, self.device, folder)
        if self.recipe.network.detects:
            corruption = self.recipe.corruption
            return validate_defects(self.averaged, pictures, self.device, folder, corruption)
        return validate(self.averaged, pictures, self.device, folder, self.recipe.corruption)

    def _is_finite(self) -> bool:
        """Whether no weight is infinite or NaN."""
        return all(bool(weight.isfinite().all()) for weight in self.model.parameters())

    def _mean_of_all(self, values: Tensor) -> list[float]:
        """Average each value over all processes."""
        if self.processes > 1:
            distributed.all_reduce(values)
            values /= self.processes
        means: list[float] = values.tolist()
        return means

    def _progress(
        self,
        loss: float,
        penalty: float,
        speed: float,
        scores: dict[str, float],
    ) -> str:
        """Compose the line that a person reads."""
        parts = [f"step {self.step}/{self.recipe.training.steps}", f"loss {loss:.5f}"]
        if self._revived:
            parts.append(f"{self._revived} dead channels revived")
            self._revived = 0
        if penalty:
            parts.append(f"penalty {penalty:.5f}")
        parts += [f"{speed / 1e3:.0f} kpx/s", f"{self._left(speed)} left"]
        if scores:
            found = [f"{LABELS[name]} {score:.2f}" for name, score in scores.items()]
            parts.append(f"validation: {', '.join(found)}")
        return "  ".join(parts)

    def _left(self, speed: float) -> str:
        """Say how long the rest takes at so many pixels a second."""
        training = self.recipe.training
        seconds = (training.steps - self.step) * training.pixels_per_step / speed
        if seconds > 3 * 3600:
            return f"{seconds / 3600:.0f} h"
        return f"{seconds / 60:.0f} min" if seconds > 99 else f"{seconds:.0f} s"
