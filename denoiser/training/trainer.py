"""One training loop: schedule, EMA, checkpoint, resume, validation, log."""

import csv
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from denoiser.errors import InputError, RecipeError, TrainingError
from denoiser.training.autoencoder import ConvAutoencoder
from denoiser.training.corruption import corrupt
from denoiser.training.dataset import Crops
from denoiser.training.recipe import Recipe, Training

Tensors = tuple[Tensor, ...] | list[Tensor]
VALIDATION_SIGMAS = (15, 25, 50)  # on the 0-255 scale
DIVERGED = 10  # a loss this many times the least one so far ends the run
LOG_COLUMNS = ["step", "megapixels", "loss", "rate", "kpx_per_s"] + [
    f"psnr_{sigma}_db" for sigma in VALIDATION_SIGMAS
]


def learning_rate(step: int, training: Training) -> float:
    """Linear warm-up to `training.rate`, then half a cosine down to zero at the last step."""
    warmup = min(1.0, (step + 1) / max(1, training.warmup_steps))
    length = max(1, training.steps - training.warmup_steps)
    progress = min(1.0, max(0, step - training.warmup_steps) / length)
    return training.rate * warmup * 0.5 * (1 + math.cos(math.pi * progress))


def loss_of(restored: Tensor, clean: Tensor, name: str) -> Tensor:
    """L1, or Charbonnier sqrt(d^2 + eps^2) with eps = 1e-3 (Lai et al. 2017); a scalar."""
    if name == "l1":
        return F.l1_loss(restored, clean)
    return torch.sqrt((restored - clean) ** 2 + 1e-6).mean()


def _update_ema(decay: float) -> Callable[[Tensors, Tensors, Tensor | int], None]:
    """Exponential moving average; its decay grows as (1 + n) / (10 + n), to forget the start."""

    def update(averaged: Tensors, current: Tensors, count: Tensor | int) -> None:
        torch._foreach_lerp_(
            averaged, current, 1 - min(decay, (1 + int(count)) / (10 + int(count)))
        )

    return update


def supports_bf16(device: torch.device) -> bool:
    """Whether bf16 is faster than fp32 on this device (on a CPU: AVX-512 BF16 or AMX)."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


class Trainer:
    """A training run: its state, and the loop that moves it forward.

    Two runs of the same recipe on the same pictures, device and thread count make the same
    weights, whether or not one of them was stopped and resumed.
    """

    def __init__(self, recipe: Recipe, device: torch.device, precision: str = "auto") -> None:
        """Build the network and its optimiser.

        Args:
            recipe: What to train and how.
            device: Where to train.
            precision: "fp32", "bf16" or "auto" (bf16 where it is faster).
        """
        torch.manual_seed(recipe.training.seed)
        self.recipe, self.device, self.step = recipe, device, 0
        self.bf16 = precision == "bf16" or (precision == "auto" and supports_bf16(device))
        self.model = ConvAutoencoder(recipe.network)
        self.model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.ema = AveragedModel(self.model, multi_avg_fn=_update_ema(recipe.training.ema_decay))
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), betas=(0.9, 0.99), weight_decay=recipe.training.weight_decay
        )
        self.generator = torch.Generator(device).manual_seed(recipe.training.seed)

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """Start from trained weights, with a fresh optimiser and schedule.

        Raises:
            RecipeError: The weights belong to another network.
        """
        try:
            self.model.load_state_dict(weights)
        except RuntimeError as error:
            raise RecipeError("the weights to start from belong to another network") from error
        self.ema.module.load_state_dict(weights)

    def save(self, path: Path) -> None:
        """Write a checkpoint; the file appears under its name only when whole."""
        state = {
            "recipe": self.recipe.to_json(),
            "step": self.step,
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
        }
        part = path.with_suffix(".part")
        torch.save(state, part)
        part.replace(path)

    def resume(self, path: Path) -> None:
        """Take up a checkpoint exactly where it was written.

        Raises:
            InputError: The file is no checkpoint.
            RecipeError: It was made by another recipe.
        """
        state = load_checkpoint(path)
        if Recipe.from_json(state["recipe"]) != self.recipe:
            raise RecipeError(f"{path} was made by another recipe: resume with that one")
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"].cpu())

    def train_step(self, crops: Crops, network: nn.Module) -> Tensor:
        """Take one step on fresh crops; returns the loss as a tensor, without waiting for it."""
        training = self.recipe.training
        clean, noisy, sigma = corrupt(
            crops.sample(training.batch, self.generator), self.recipe.corruption, self.generator
        )
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            restored = network(noisy, sigma)
        loss = loss_of(restored, clean, training.loss)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, training)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), training.largest_gradient)
        self.optimizer.step()
        self.ema.update_parameters(self.model)
        self.step += 1
        return loss.detach()

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

        Writes into `folder`: checkpoint.pt, log.csv (one line per `log_every` steps) and
        validation.png (clean, noisy and restored crops). An interrupt saves a checkpoint first.

        Args:
            crops: Training pictures.
            validation: (H, W, 3) uint8 pictures that are not among them; may be empty.
            folder: Where to write; made if missing.
            log_every: Steps between lines of the log.
            validate_every: Steps between validations.
            checkpoint_s: Seconds between checkpoints.
            report: Told a line for the person after every line of the log.

        Raises:
            TrainingError: The loss exploded; the last checkpoint is kept.
        """
        folder.mkdir(parents=True, exist_ok=True)
        training = self.recipe.training
        checkpoint, log = folder / "checkpoint.pt", Log(folder / "log.csv", self.step)
        network = torch.compile(self.model) if self.device.type == "cuda" else self.model
        pixels_per_step = training.batch * training.crop_px**2
        loss_sum, counted = torch.zeros((), device=self.device), 0
        least_loss = math.inf
        started = saved = time.monotonic()
        try:
            while self.step < training.steps:
                loss_sum += self.train_step(crops, network)  # type: ignore[arg-type]
                counted += 1
                last = self.step == training.steps
                if self.step % log_every and not last:
                    continue
                loss = loss_sum.item() / counted
                if not loss < DIVERGED * least_loss:  # or it is NaN
                    raise TrainingError(f"loss {loss:.3g} at step {self.step}: lower the rate")
                least_loss = min(least_loss, loss)
                speed = counted * pixels_per_step / (time.monotonic() - started)
                scores: list[float] = []
                if validation and (self.step % validate_every == 0 or last):
                    scores = validate(self.ema.module, validation, self.device, folder)
                megapixels = self.step * pixels_per_step / 1e6
                rate = learning_rate(self.step, training)
                log.write(self.step, [megapixels, loss, rate, speed / 1e3, *scores])
                left_s = (training.steps - self.step) * pixels_per_step / speed
                text = " / ".join(f"{score:.2f}" for score in scores)
                report(
                    f"step {self.step}/{training.steps}  loss {loss:.5f}  {speed / 1e3:.0f} kpx/s"
                    f"  {left_s / 60:.0f} min left" + (f"  PSNR {text} dB" if text else "")
                )
                loss_sum.zero_()
                counted, started = 0, time.monotonic()
                if started - saved > checkpoint_s:
                    self.save(checkpoint)
                    saved = started
        except KeyboardInterrupt:
            if counted == 0 or loss_sum.item() / counted < DIVERGED * least_loss:
                self.save(checkpoint)
            raise
        self.save(checkpoint)


class Log:
    """A CSV file with one line per interval; a resumed run drops the lines it will write again."""

    def __init__(self, path: Path, step: int) -> None:
        """Open `path`, keeping its lines up to `step`."""
        kept: list[list[str]] = []
        if step and path.exists():
            with path.open(newline="") as file:
                rows = [row for row in csv.reader(file) if row and row[0].isdigit()]
            kept = [row for row in rows if int(row[0]) <= step]
        self.path = path
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([LOG_COLUMNS, *kept])

    def write(self, step: int, values: Sequence[float]) -> None:
        """Append one line."""
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerow([step, *(f"{value:.6g}" for value in values)])


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint without running code from it.

    Raises:
        InputError: The file is missing or no checkpoint.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        complete = {"recipe", "step", "model", "ema", "optimizer", "generator"} <= set(state)
    except Exception as error:  # torch and pickle raise many kinds
        raise InputError(f"cannot read checkpoint {path}: {error}") from error
    if not complete:
        raise InputError(f"{path} is no checkpoint of a training run")
    return state


def validate(
    network: nn.Module, pictures: Sequence[np.ndarray], device: torch.device, folder: Path
) -> list[float]:
    """Measure PSNR on the centres of validation pictures, in fp32, with fixed noise.

    Args:
        network: Called as network(image, sigma).
        pictures: (H, W, 3) uint8.
        device: Where to compute.
        folder: Gets validation.png: a row per picture, clean, then noisy and restored per sigma.

    Returns:
        Mean PSNR in dB per level of `VALIDATION_SIGMAS`, noise and result as in the literature:
        noise not clipped, the result clipped to [0, 1].
    """
    network.eval()
    scores = []
    rows = [[_centre(picture)] for picture in pictures]
    for level in VALIDATION_SIGMAS:
        generator = torch.Generator().manual_seed(level)
        psnrs = []
        for row in rows:
            clean = torch.from_numpy(row[0]).permute(2, 0, 1)[None].float() / 255
            noisy = clean + level / 255 * torch.randn(clean.shape, generator=generator)
            sigma = torch.full_like(noisy[:, :1], level / 255)
            with torch.inference_mode():
                restored = network(noisy.to(device), sigma.to(device)).cpu().clamp(0, 1)
            psnrs.append(-10 * math.log10(F.mse_loss(restored, clean).item() + 1e-12))
            row += [_to_uint8(noisy), _to_uint8(restored)]
        scores.append(sum(psnrs) / len(psnrs))
    network.train()
    side = min(image.shape[0] for row in rows for image in row)
    shown = [[image[:side, :side] for image in row] for row in rows[:8]]
    Image.fromarray(np.block([[[image] for image in row] for row in shown])).save(
        folder / "validation.png"
    )
    return scores


def _centre(picture: np.ndarray, largest_px: int = 256, multiple: int = 32) -> np.ndarray:
    """Cut the central square whose side is a multiple of 32 and at most `largest_px`."""
    height, width = picture.shape[:2]
    side = min(height, width, largest_px) // multiple * multiple
    y, x = (height - side) // 2, (width - side) // 2
    return np.ascontiguousarray(picture[y : y + side, x : x + side])


def _to_uint8(batch: Tensor) -> np.ndarray:
    return (batch[0].permute(1, 2, 0).clamp(0, 1) * 255).round().byte().numpy()
