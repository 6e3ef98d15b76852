"""What a person sees of a training run: log, curves, validation scores and pictures."""

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from denoiser.files import write_text
from denoiser.training.autoencoder import ConvAutoencoder
from denoiser.training.corruption import corrupt
from denoiser.training.holes import Holes, cut_out, draw_holes
from denoiser.training.step import Step

VALIDATION_SIGMAS = (0, 5, 15, 25, 50)
"""Noise levels on the 0-255 scale; at 0 the PSNR is that of the reconstruction, 5 is what cameras
leave."""
VALIDATION_HOLES = {
    "thin": Holes(("scratches", "specks", "text")),
    "medium": Holes(("strokes", "boxes"), width_px=(8, 32)),
    "large": Holes(("boxes",), width_px=(48, 96)),
}
LABELS = (
    {f"psnr_{sigma}_db": f"sigma {sigma}" for sigma in VALIDATION_SIGMAS}
    | {"psnr_own_db": "the recipe's corruption"}
    | {f"psnr_{width}_db": f"{width} holes" for width in VALIDATION_HOLES}
    | {"found_percent": "defects found, %", "right_percent": "findings that are right, %"}
)
COLUMNS = ["step", "megapixels", "loss", "penalty", "rate", "kpx_per_s", *LABELS]
SHEET_ROWS = 8
TOGETHER = 32
"""So many pictures are corrupted at once."""


class Log:
    """A CSV file with one line per interval; a resumed run drops the lines it will write again."""

    def __init__(self, path: Path, step: int) -> None:
        """Open `path`, keeping its lines up to `step`."""
        kept: list[list[str]] = []
        if step and path.exists():
            with path.open(newline="") as file:
                rows = [row for row in csv.reader(file) if len(row) == len(COLUMNS)]
            rows = [row for row in rows if row[0].isdigit()]  # a line may have been cut short
            kept = [row for row in rows if int(row[0]) <= step]
        self.path = path
        self.last = int(kept[-1][0]) if kept else 0
        """Step of the last line that was there."""
        table = io.StringIO(newline="")
        csv.writer(table).writerows([COLUMNS, *kept])
        write_text(path, table.getvalue())

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append one line, its values by column; others stay empty."""
        row = {name: f"{value:.6g}" for name, value in values.items()}
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, COLUMNS).writerow({"step": step, **row})

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
    for column, label in LABELS.items():
        if points[column]:
            scores.plot(*zip(*points[column], strict=True), ".-", label=label)
    losses.set(yscale="log", ylabel="training loss", xlabel="megapixels seen")
    scores.set(ylabel="validation PSNR (dB) or %", xlabel="megapixels seen")
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
    corruption: Sequence[Step] = (),
) -> dict[str, float]:
    """Measure PSNR on the centres of validation pictures, in fp32, with fixed noise.

    Args:
        network: What to measure; is told the level of the noise unless it estimates it.
        pictures: (H, W, 3) uint8, not smaller than the network's stride.
        device: Where to compute.
        folder: Gets validation.png, a row for each of the first `SHEET_ROWS` pictures: clean,
            then noisy and restored per kind of noise.
        corruption: What the network was trained on, to measure it on that too.

    Returns:
        Mean PSNR in dB by column, per level of `VALIDATION_SIGMAS`, noise and result as in the
        literature: noise not clipped, the result clipped to [0, 1]. Then that for `corruption`, if
        there is any, drawn once for each picture.
    """
    centres = [centre(picture, network.stride) for picture in pictures]
    cases = [_white(centres, level) for level in VALIDATION_SIGMAS]
    if corruption:
        side = min(len(picture) for picture in centres)
        alike = [centre(picture, network.stride, side) for picture in centres]
        cases.append(_own(alike, corruption))
    rows, scores = [[picture] for picture in centres], []
    for case in cases:
        psnrs = []
        for index, (truth, noisy, sigma) in enumerate(case):
            told = -torch.ones_like(sigma) if network.estimator else sigma
            restored = restore(network, noisy, told, device)
            psnrs.append(-10 * math.log10(F.mse_loss(restored, truth).item() + 1e-12))
            if index < SHEET_ROWS:
                shown = [restored] if noisy is truth else [noisy, restored]
                rows[index] += [to_uint8(image) for image in shown]
        scores.append(sum(psnrs) / len(psnrs))
    save_sheet(rows[:SHEET_ROWS], folder / "validation.png")
    return dict(zip(LABELS, scores, strict=False))


def _white(centres: Sequence[np.ndarray], level: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Add white noise to pictures: clean, noisy and its level, one picture at a time."""
    generator = torch.Generator().manual_seed(level)
    for picture in centres:
        clean = to_batch(picture)
        noise = torch.randn(clean.shape, generator=generator)
        noisy = clean + level / 255 * noise if level else clean
        yield clean, noisy, torch.full_like(clean[:, :1], level / 255)


def _own(
    centres: Sequence[np.ndarray], corruption: Sequence[Step]
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Corrupt pictures of one size as a recipe does, some at once, for steps may divide a batch."""
    generator = torch.Generator().manual_seed(0)
    for start in range(0, len(centres), TOGETHER):
        some = [to_batch(picture) for picture in centres[start : start + TOGETHER]]
        corrupted = corrupt(torch.cat(some), corruption, generator)
        yield from zip(*(part.chunk(len(part)) for part in corrupted), strict=True)


def validate_holes(
    network: ConvAutoencoder,
    pictures: Sequence[np.ndarray],
    device: torch.device,
    folder: Path,
) -> dict[str, float]:
    """Measure a network that fills holes on the centres of validation pictures.

    Args:
        network: What to measure.
        pictures: (H, W, 3) uint8, not smaller than the network's stride.
        device: Where to compute.
        folder: Gets validation.png: clean, then with a hole and filled per width.

    Returns:
        Mean PSNR in dB inside the holes by column, per width of `VALIDATION_HOLES`.
    """
    rows, psnrs = [], []
    for index, picture in enumerate(centre(picture, network.stride) for picture in pictures):
        clean, row = to_batch(picture), [picture]
        for seed, options in enumerate(VALIDATION_HOLES.values()):
            generator = torch.Generator().manual_seed(1000 * seed + index)
            hole = draw_holes(clean, options, generator)
            damaged = cut_out(clean, hole)
            filled = restore(network, damaged, hole, device)
            error = ((filled - clean) ** 2 * hole).sum() / (3 * hole.sum())
            psnrs.append(-10 * math.log10(error.item() + 1e-12))
            row += [to_uint8(damaged), to_uint8(filled)]
        rows.append(row)
    save_sheet(rows[:SHEET_ROWS], folder / "validation.png")
    means = np.reshape(psnrs, (-1, len(VALIDATION_HOLES))).mean(0)
    return {
        f"psnr_{width}_db": float(db) for width, db in zip(VALIDATION_HOLES, means, strict=True)
    }


def validate_defects(
    network: ConvAutoencoder,
    pictures: Sequence[np.ndarray],
    device: torch.device,
    folder: Path,
    corruption: Sequence[Step],
) -> dict[str, float]:
    """Measure a network that finds defects on the centres of validation pictures.

    Args:
        network: What to measure.
        pictures: (H, W, 3) uint8, not smaller than the network's stride.
        device: Where to compute.
        folder: Gets validation.png: with defects, where they are, where they are found;
            scratches are magenta, dust is cyan.
        corruption: What paints them, drawn once for each picture.

    Returns:
        Per cent of the defects' pixels that are found, more likely covered than not, and of the
        found pixels that are right; 0 where there are none.
    """
    rows, counts = [], np.zeros(3)
    for seed, picture in enumerate(centre(picture, network.stride) for picture in pictures):
        generator = torch.Generator().manual_seed(seed)
        target, damaged, sigma = corrupt(to_batch(picture), corruption, generator)
        likely = restore(network, damaged, sigma, device)
        there, found = target[:, 2] > 0, likely[:, 2] > 0.5
        counts += [int(part.sum()) for part in (there & found, there, found)]
        rows.append([to_uint8(image) for image in (damaged, target, likely)])
    save_sheet(rows[:SHEET_ROWS], folder / "validation.png")
    both, there, found = np.maximum(counts, [0, 1, 1])
    return {"found_percent": 100 * both / there, "right_percent": 100 * both / found}


def show(
    network: ConvAutoencoder,
    pictures: Sequence[np.ndarray],
    device: torch.device,
    folder: Path,
) -> None:
    """Restore noisy pictures whose clean ones nobody has: validation.png, but no scores."""
    rows = []
    for picture in pictures[:SHEET_ROWS]:
        noisy = centre(picture, network.stride)
        batch = to_batch(noisy)
        rows.append(
            [noisy, to_uint8(restore(network, batch, torch.zeros_like(batch[:, :1]), device))]
        )
    save_sheet(rows, folder / "validation.png")


def restore(network: ConvAutoencoder, noisy: Tensor, sigma: Tensor, device: torch.device) -> Tensor:
    """Restore (N, 3, H, W) of noise level (N, 1, H, W); the result is clipped, on the CPU."""
    network.eval()
    with torch.inference_mode():
        restored, _ = network.restore(noisy.to(device), sigma.to(device), pooled=True)
        restored = restored.cpu().clamp(0, 1)
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
