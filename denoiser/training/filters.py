"""Filters of a batch: Gaussian blur, every crop by its own width, and smooth interpolation."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def gaussian(width: Tensor, largest_px: float) -> Tensor:
    """Sample Gaussians.

    Args:
        width: (N, 1, 1, 1) standard deviations in pixels; 0 makes a single one among zeros.
        largest_px: The most that `width` may be; the kernels reach three times as far.

    Returns:
        (N, 1, 1, K), each of sum 1.
    """
    reach = math.ceil(3 * largest_px)
    place = torch.arange(-reach, reach + 1, device=width.device)  # (K,)
    kernel = torch.exp(-(place**2) / (2 * width.clamp(min=0.01) ** 2))
    return kernel / kernel.sum(3, keepdim=True)


def convolve(image: Tensor, kernel: Tensor) -> Tensor:
    """Convolve rows and columns, each crop with its own kernel, without padding.

    Args:
        image: (N, C, H + K - 1, W + K - 1).
        kernel: (N, 1, 1, K).

    Returns:
        (N, C, H, W).
    """
    count, channels = image.shape[:2]
    kernels = kernel.repeat_interleave(channels, 0)
    flat = image.flatten(0, 1)[None]  # (1, N C, H + K - 1, W + K - 1)
    for weights in (kernels, kernels.transpose(2, 3)):
        flat = F.conv2d(flat, weights, groups=len(weights))
    return flat.reshape(count, channels, *flat.shape[2:])


def blur(image: Tensor, width: Tensor, largest_px: float) -> Tensor:
    """Blur (N, C, H, W) by Gaussians of `width` (N, 1, 1, 1) pixels; borders are repeated."""
    reach = math.ceil(3 * largest_px)
    padded = F.pad(image, (reach,) * 4, mode="replicate")
    return convolve(padded, gaussian(width, largest_px))


def push_pull(image: Tensor, weight: Tensor, coarsest: int) -> Tensor:
    """Interpolate smoothly where nothing is known, from ever coarser means (Gortler et al. 1996).

    Args:
        image: (N, C, H, W); H and W multiples of `coarsest`.
        weight: (N, 1, H, W), 1 where the image is known, else 0.
        coarsest: Side in pixels of the largest squares, a power of two. Where such a square knows
            nothing either, the mean of the whole crop stands.

    Returns:
        (N, C, H, W), `image` where it is known.
    """
    values, levels = image * weight, []
    for _ in range(coarsest.bit_length() - 1):
        levels.append((values, weight))
        values, weight = F.avg_pool2d(values, 2), F.avg_pool2d(weight, 2)
    mean = values.mean((2, 3), keepdim=True) / weight.mean((2, 3), keepdim=True).clamp(min=1e-6)
    smooth = torch.where(weight > 0, values / weight.clamp(min=1e-6), mean)
    for values, weight in reversed(levels):
        smooth = F.interpolate(smooth, scale_factor=2, mode="bilinear", align_corners=False)
        trust = (4 * weight).clamp(max=1)
        smooth = smooth + trust * (values / weight.clamp(min=1e-6) - smooth)
    return smooth
