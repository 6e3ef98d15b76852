"""Train a denoising autoencoder on a curve in the plane and draw where it moves points.

The theory (Alain and Bengio 2014, through Tweedie's formula) says reconstruction - input =
sigma^2 times the gradient of the log density: toward the data. Here the best answer is known.
"""

import math
from pathlib import Path

import torch
from torch import Tensor

from denoiser.training.autoencoder import ConvAutoencoder
from denoiser.training.dataset import Crops
from denoiser.training.noises import Gaussian
from denoiser.training.recipe import Network, Recipe, Training
from denoiser.training.trainer import Trainer

SIGMA = 12 / 255
POINTS = 1500


def curve() -> Tensor:
    """Points on one and a half turns of a spiral, (POINTS, 3), the third coordinate 0."""
    turn = torch.linspace(0, 1, POINTS) ** 0.7  # about evenly spaced
    angle, radius = 3 * math.pi * turn, 0.08 + 0.34 * turn
    x, y = 0.5 + radius * angle.cos(), 0.5 + radius * angle.sin()
    return (torch.stack([x, y, torch.zeros(POINTS)], 1) * 255).round() / 255


def ideal_change(points: Tensor) -> Tensor:
    """E[clean | noisy] - noisy for points (N, 3): what the best denoiser does."""
    data = curve()
    weights = torch.softmax(-(torch.cdist(points, data) ** 2) / (2 * SIGMA**2), 1)
    return weights @ data - points


def train(steps: int = 2000) -> ConvAutoencoder:
    """Train on a picture whose pixels are the curve's points, with crops of one pixel."""
    recipe = Recipe(
        "curve",
        Network(channels=(64,), blocks=3, unshuffle=1, noise_map=False),
        (Gaussian(sigma=(SIGMA * 255, SIGMA * 255)),),
        training=Training(
            steps=steps, batch=512, crop_px=1, rate=2e-3, warmup_steps=100, loss="l2",
            weight_decay=0,
        ),
    )  # fmt: skip
    trainer = Trainer(recipe, torch.device("cpu"), "fp32")
    picture = (curve() * 255).round().byte().numpy()[None]  # (1, POINTS, 3)
    crops = Crops([picture], recipe.training.crop_px, trainer.device)
    for _ in range(steps):
        trainer.train_step(crops)
    return trainer.averaged.eval()


def learned_change(network: ConvAutoencoder, points: Tensor) -> Tensor:
    """Reconstruction - input for points (N, 3)."""
    with torch.inference_mode():
        restored: Tensor = network(points[:, :, None, None])
    return restored[:, :, 0, 0] - points


def draw(network: ConvAutoencoder, path: Path) -> None:
    """Draw the data, and the learned and the ideal change on a grid."""
    from matplotlib.figure import Figure

    axis = torch.linspace(0.06, 0.94, 30)
    grid = torch.cartesian_prod(axis, axis)
    points = torch.cat([grid, torch.zeros(len(grid), 1)], 1)
    figure = Figure(figsize=(10, 5.2), layout="constrained")
    data = curve().numpy()
    for axes, change, title in zip(
        figure.subplots(1, 2),
        (learned_change(network, points), ideal_change(points)),
        ("learned: reconstruction - input", "ideal: E[clean | noisy] - noisy"),
        strict=True,
    ):
        axes.plot(data[:, 0], data[:, 1], color="tab:orange", linewidth=3, alpha=0.6)
        x, y = points[:, :2].numpy().T
        u, v = change[:, :2].numpy().T
        axes.quiver(x, y, u, v, angles="xy", scale_units="xy", scale=1.5, width=0.003)
        axes.set(aspect="equal", title=title, xticks=[], yticks=[])
    figure.savefig(path, dpi=100, bbox_inches="tight")
