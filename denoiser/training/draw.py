"""Random numbers and constants for a batch of crops, made on the training device."""

import functools
import random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Range = tuple[float, float]
"""[low, high], drawn uniformly per crop; annotated with the least and the most that it may be."""


@functools.cache
def constant(values: tuple[Any, ...], device: torch.device) -> Tensor:
    """Put nested tuples of numbers on a device once, as float32: each copy would wait for it."""
    return torch.tensor(values, dtype=torch.float32, device=device)


class Draw:
    """Random numbers for a batch, made on its device."""

    def __init__(self, batch: Tensor, generator: torch.Generator) -> None:
        """Draw for the crops of `batch`, (N, C, H, W)."""
        self.batch, self.generator = batch, generator

    def uniform(self, bounds: Range) -> Tensor:
        """One number per crop, (N, 1, 1, 1)."""
        low, high = bounds
        return low + (high - low) * self._rand(len(self.batch), 1, 1, 1)

    def pixels(self) -> Tensor:
        """Uniform in [0, 1), one number per pixel, (N, 1, H, W)."""
        return self._rand(len(self.batch), 1, *self.batch.shape[2:])

    def normal(self, margin: int = 0, channels: int = 3) -> Tensor:
        """Standard normal, one number per value, (N, channels, H + 2 margin, W + 2 margin)."""
        count, _, height, width = self.batch.shape
        shape = (count, channels, height + 2 * margin, width + 2 * margin)
        return torch.randn(shape, device=self.batch.device, generator=self.generator)

    def whole(self, count: int) -> int:
        """Pick one whole number in [0, count), the same for all crops.

        Of a GPU's numbers only the place in their sequence is used: the host does not wait.
        """
        generator = self.generator
        if generator.device.type == "cpu":
            return int(torch.randint(count, (1,), generator=generator))
        place = generator.get_offset()
        generator.set_offset(place + 4)  # as one number would
        return random.Random(f"{generator.initial_seed()} {place}").randrange(count)

    def crops(self) -> Tensor:
        """Standard normal, one number per crop, (N, 1, 1, 1)."""
        shape = (len(self.batch), 1, 1, 1)
        return torch.randn(shape, device=self.batch.device, generator=self.generator)

    def windows(self, images: Tensor, part: Tensor, shape: tuple[int, int] | None = None) -> Tensor:
        """Take a window at a random place of each image, and scale it (bicubic).

        Args:
            images: (N, C, H, W).
            part: (N, 1 or 2, 1, 1), how much of the image the window spans: across, and down.
            shape: (h, w) of the windows; that of the images if None.

        Returns:
            (N, C, h, w).
        """
        count = len(images)
        part = part[:, :, 0].expand(count, 2, 1)
        shift = (1 - part) * torch.cat([self.uniform((-1, 1))[:, :, 0] for _ in range(2)], 1)
        affine = torch.cat([torch.diag_embed(part[:, :, 0]), shift], 2)  # (N, 2, 3)
        size = [count, images.shape[1], *(shape or images.shape[2:])]
        grid = F.affine_grid(affine, size, align_corners=False)
        return F.grid_sample(
            images, grid, mode="bicubic", padding_mode="reflection", align_corners=False
        )

    def _rand(self, *shape: int) -> Tensor:
        return torch.rand(shape, device=self.batch.device, generator=self.generator)
