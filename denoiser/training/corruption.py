"""Noise synthesis, on the training device."""

import torch
from torch import Tensor

from denoiser.training.recipe import Corruption


def corrupt(
    clean: Tensor, corruption: Corruption, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Add white Gaussian noise of a level drawn per crop.

    Args:
        clean: (N, 3, H, W) float32 in [0, 1].
        corruption: Ranges and shares to draw from.
        generator: Source of randomness, on the device of `clean`.

    Returns:
        clean (N, 3, H, W), grey where the crop was turned grey; noisy (N, 3, H, W), which exceeds
        [0, 1] except where clipped; sigma (N, 1, H, W) in [0, 1] units.
    """
    count, _, height, width = clean.shape
    device = clean.device

    def chosen(share: float) -> Tensor:  # (N, 1, 1, 1) bool
        return torch.rand(count, 1, 1, 1, device=device, generator=generator) < share

    low, high = (bound / 255 for bound in corruption.sigma)
    level = torch.rand(count, 1, 1, 1, device=device, generator=generator)
    sigma = low + (high - low) * level  # (N, 1, 1, 1)
    noise = torch.randn(clean.shape, device=device, generator=generator)
    grey = chosen(corruption.grey_share)
    clean = torch.where(grey, clean.mean(1, keepdim=True), clean)
    noisy = clean + sigma * torch.where(grey, noise[:, :1], noise)
    noisy = torch.where(chosen(corruption.clip_share), noisy.clamp(0, 1), noisy)
    return clean, noisy, sigma.expand(count, 1, height, width)
