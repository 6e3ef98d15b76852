"""What a person sees of a training run: log, curves, validation scores and pictures."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from denoiser.training.autoencoder import ConvAutoencoder

VALIDATION_SIGMAS = (0, 15, 25, 50)
"""Noise levels on the 0-255 scale; at 0 the PSNR is that of the reconstruction."""
COLUMNS = ["step", "megapixels", "loss", "penalty", "rate", "kpx_per_s"] + [
    f"psnr_{sigma}_db" for sigma in VALIDATION_SIGMAS
]
SHEET_ROWS = 8


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
            csv.writer(file).writerows([COLUMNS, *kept])

    def write(self, step: int, values: Sequence[float]) -> None:
        """Append one line."""
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerow([step, *(f"{value:.6g}" for value in values)])

    def read(self) -> dict[str, list[tuple[float, float]]]:
        """Each column's points as (megapixels, value), empty cells left out."""
        with self.path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        return {
            column: [(float(row["megapixels"]), float(row[column])) for row in rows if row[column]]
            for column in COLUMNS
        }


def draw_curves(log: Log, path: Path) -> None:
    """Draw loss and PSNR over the training pixels as a PNG."""
    from matplotlib.figure import Figure

    points = log.read()
    figure = Figure(figsize=(10, 4), layout="constrained")
    losses, scores = figure.subplots(1, 2)
    for column in ("loss", "penalty"):
        if any(value for _, value in points[column]):
            losses.plot(*zip(*points[column], strict=True), ".-", label=column, linewidth=1, ms=3)
    for sigma in VALIDATION_SIGMAS:
        column = f"psnr_{sigma}_db"
        if points[column]:
            scores.plot(*zip(*points[column], strict=True), ".-", label=f"sigma {sigma}")
    losses.set(yscale="log", ylabel="training loss", xlabel="megapixels seen")
    scores.set(ylabel="validation PSNR (dB)", xlabel="megapixels seen")
    for axes in (losses, scores):
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
    figure.savefig(path, dpi=100)


def validate(
    network: ConvAutoencoder,
    pictures: Sequence[np.ndarray],
    device: torch.device,
    folder: Path,
) -> list[float]:
    """Measure PSNR on the centres of validation pictures, in fp32, with fixed noise.

    Args:
        network: What to measure.
        pictures: (H, W, 3) uint8, not smaller than the network's stride.
        device: Where to compute.
        folder: Gets validation.png, a row for each of the first `SHEET_ROWS` pictures: clean,
            then noisy and restored per sigma.

    Returns:
        Mean PSNR in dB per level of `VALIDATION_SIGMAS`, noise and result as in the literature:
        noise not clipped, the result clipped to [0, 1].
    """
    scores = []
    rows = [[centre(picture, network.stride)] for picture in pictures]
    for level in VALIDATION_SIGMAS:
        generator = torch.Generator().manual_seed(level)
        psnrs = []
        for index, row in enumerate(rows):
            clean = to_batch(row[0])
            noisy = clean + level / 255 * torch.randn(clean.shape, generator=generator)
            restored = restore(network, noisy, level, device)
            psnrs.append(-10 * math.log10(F.mse_loss(restored, clean).item() + 1e-12))
            if index < SHEET_ROWS:
                row += [to_uint8(noisy), to_uint8(restored)] if level else [to_uint8(restored)]
        scores.append(sum(psnrs) / len(psnrs))
    save_sheet(rows[:SHEET_ROWS], folder / "validation.png")
    return scores


def show(
    network: ConvAutoencoder,
    pictures: Sequence[np.ndarray],
    device: torch.device,
    folder: Path,
) -> list[float]:
    """Restore noisy pictures whose clean ones nobody has: validation.png, but no scores."""
    rows = []
    for picture in pictures[:SHEET_ROWS]:
        noisy = centre(picture, network.stride)
        rows.append([noisy, to_uint8(restore(network, to_batch(noisy), 0, device))])
    save_sheet(rows, folder / "validation.png")
    return []


def restore(network: ConvAutoencoder, noisy: Tensor, level: int, device: torch.device) -> Tensor:
    """Restore a batch (N, 3, H, W) of noise `level`, 0-255; the result is clipped, on the CPU."""
    sigma = torch.full_like(noisy[:, :1], level / 255)
    network.eval()
    with torch.inference_mode():
        restored: Tensor = network(noisy.to(device), sigma.to(device)).cpu().clamp(0, 1)
    network.train()
    return restored


def save_sheet(rows: Sequence[Sequence[np.ndarray]], path: Path) -> None:
    """Save rows of square (S, S, 3) uint8 pictures, smaller ones on white."""
    side = max(len(row[0]) for row in rows)
    sheet = Image.new("RGB", (side * len(rows[0]), side * len(rows)), "white")
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            sheet.paste(Image.fromarray(image), (x * side, y * side))
    sheet.save(path)


def centre(picture: np.ndarray, stride: int, largest_px: int = 256) -> np.ndarray:
    """Cut the central square whose side is a multiple of `stride` and at most `largest_px`."""
    height, width = picture.shape[:2]
    side = min(height, width, max(largest_px, stride)) // stride * stride
    y, x = (height - side) // 2, (width - side) // 2
    return np.ascontiguousarray(picture[y : y + side, x : x + side])


def to_batch(picture: np.ndarray) -> Tensor:
    """Turn (H, W, 3) uint8 into (1, 3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255


def to_uint8(batch: Tensor) -> np.ndarray:
    """Clip and round (1, 3, H, W) to (H, W, 3) uint8."""
    return (batch[0].permute(1, 2, 0).clamp(0, 1) * 255).round().byte().numpy()
