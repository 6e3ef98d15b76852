"""What a training step minimises: the distance to the target, and the penalties on the code."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoiser.training import neighbor2neighbor, penalties
from denoiser.training.autoencoder import ConvAutoencoder
from denoiser.training.recipe import ESTIMATOR_STRIDE, Recipe
from denoiser.training.step import power

KNEE = 10 / 255
"""Noise level in [0, 1] units that halves a crop's weight in the weighted losses, and a place's in
level_distance."""


class Objective(nn.Module):
    """A network with its loss, so that data parallelism and compilation see both as one."""

    def __init__(self, network: ConvAutoencoder, recipe: Recipe, generator: torch.Generator):
        super().__init__()
        self.network, self.recipe, self.generator = network, recipe, generator

    def forward(
        self, image: Tensor, sigma: Tensor, target: Tensor, offset: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Compute the loss.

        Args:
            image: (N, 3, H, W) what the network sees.
            sigma: (N, 1, H, W) its noise level, -1 if that is to be estimated; ignored by a network
                without noise map. For one that fills holes the hole.
            target: (N, 3, H, W) what it should say; of a network that finds defects where they are.
            offset: (N, 3, H, W) how far the target is expected to lie, see `neighbor2neighbor`.

        Returns:
            The loss without penalties, and the weighted penalties, the error of the estimated noise
            map among them; scalars.
        """
        if self.recipe.training.learns == "estimator":
            assert self.network.estimator is not None
            error = level_distance(self.network.estimator(image), image - target)
            return error, torch.zeros_like(error)
        options = self.recipe.penalties
        if options.contraction:
            image = image.requires_grad_()
        noise_map, estimate = self.network.noise_level(image, sigma, pooled=True)
        restored, code = self.network.reconstruct(image, noise_map)
        if self.recipe.network.hole:
            weight = self.recipe.training.gradient_weight
            loss = hole_distance(restored, target, sigma > 0, weight)
        elif self.recipe.network.detects:
            loss = F.binary_cross_entropy_with_logits(restored, target)
        else:
            loss = distance(restored, target, image, self.recipe.training.loss)
        if offset is not None:
            loss = loss + neighbor2neighbor.regulariser(restored, target, offset)
        penalty = torch.zeros((), device=image.device)
        if self.recipe.network.estimator:
            error = level_distance(estimate, image.detach() - target)
            penalty = penalty + self.recipe.training.estimate_weight * error
        if options.sparsity == "l1":
            penalty = penalty + options.sparsity_weight * penalties.l1(code)
        elif options.sparsity == "kl":
            penalty = penalty + options.sparsity_weight * penalties.kl(code, options.rho)
        if options.contraction:
            norm = penalties.contraction(code, image, self.generator, options.probes)
            penalty = penalty + options.contraction * norm
        return loss, penalty


def local_level(noise: Tensor) -> Tensor:
    """Root mean square of noise (N, 3, H, W) over 5 x 5 cells of 8 pixels, (N, 1, H / 8, W / 8)."""
    power = F.avg_pool2d((noise**2).mean(1, keepdim=True), ESTIMATOR_STRIDE)
    return F.avg_pool2d(power, 5, 1, 2, count_include_pad=False).sqrt()


def level_distance(estimate: Tensor, noise: Tensor) -> Tensor:
    """Compute how far an estimated noise map is from the truth, where that is small most strictly.

    Args:
        estimate: (N, 1, H / 8, W / 8) in the units of the image.
        noise: (N, 3, H, W).

    Returns:
        The mean of c |estimate - level| / (c + level), c = 10/255; a scalar.
    """
    level = local_level(noise)
    return ((estimate - level).abs() * KNEE / (KNEE + level)).mean()


def distance(restored: Tensor, target: Tensor, image: Tensor, name: str) -> Tensor:
    """Compute a loss by name.

    Args:
        restored: (N, 3, H, W).
        target: (N, 3, H, W).
        image: (N, 3, H, W) what the network saw.
        name: "l1", "l2" (mean square), "charbonnier" (sqrt(d^2 + eps^2), eps = 1e-3; Lai et al.
            2017) or "rmse" (the root of each crop's mean square). In "weighted-l1" and
            "weighted-rmse" crops with little noise count more, as they do in decibels, by
            c / (c + level), c = 10/255, level the root mean square of image - target.

    Returns:
        A scalar.
    """
    if name == "l2":
        return F.mse_loss(restored, target)
    if name == "charbonnier":
        return torch.sqrt((restored - target) ** 2 + 1e-6).mean()
    if name.endswith("rmse"):
        errors = (power(restored - target).flatten() + 1e-6).sqrt()  # finite slope at 0
    else:
        errors = (restored - target).abs().mean((1, 2, 3))
    if name.startswith("weighted"):
        level = power(image.detach() - target).flatten().sqrt()
        errors = errors * KNEE / (KNEE + level)
    return errors.mean()


def hole_distance(restored: Tensor, target: Tensor, hole: Tensor, gradient_weight: float) -> Tensor:
    """Compute the mean absolute error in the hole, every crop alike, and that of gradients.

    Args:
        restored: (N, 3, H, W).
        target: (N, 3, H, W).
        hole: (N, 1, H, W) bool.
        gradient_weight: Weight of the error of differences between neighbours, at full, half and a
            quarter of the resolution; the target is taken for what lies outside the hole, so that
            a seam counts.

    Returns:
        A scalar.
    """
    error = (restored - target) * hole
    size = 3 * hole.sum((1, 2, 3)).clamp(min=1)
    total = error.abs().sum((1, 2, 3))
    for scale in (1, 2, 4) if gradient_weight else ():
        coarse = F.avg_pool2d(error, scale)
        for axis in (2, 3):
            total = total + gradient_weight * scale**2 * coarse.diff(dim=axis).abs().sum((1, 2, 3))
    return (total / size).mean()
