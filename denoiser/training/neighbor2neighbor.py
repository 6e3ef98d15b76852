"""Learning from noisy pictures alone (Neighbor2Neighbor; Huang et al. 2021).

From each 2x2 cell of a noisy picture two neighbouring pixels are drawn, one for the input and one
for the target. They show nearly the same scene with independent noise, so a network that predicts
one from the other learns the scene. Noise must be independent from pixel to pixel and unbiased.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from denoiser.training.draw import constant

GAMMA = 2.0
"""Weight of the regulariser, as in the paper's experiments on synthetic noise."""
# pixels of a cell are numbered 0 1 / 2 3; pairs of neighbours, (input, target)
PAIRS = ((0, 1), (1, 0), (0, 2), (2, 0), (1, 3), (3, 1), (2, 3), (3, 2))


def draw_pairs(noisy: Tensor, generator: torch.Generator) -> Tensor:
    """Choose neighbours for every cell of a batch (N, C, H, W); returns (2, N, 1, 1, H/2, W/2)."""
    count, _, height, width = noisy.shape
    which = torch.randint(
        len(PAIRS),
        (count, 1, 1, height // 2, width // 2),
        device=noisy.device,
        generator=generator,
    )
    return constant(PAIRS, noisy.device).long().T[:, which]


def subsample(batch: Tensor, choice: Tensor) -> Tensor:
    """Take one pixel per 2x2 cell.

    Args:
        batch: (N, C, H, W).
        choice: (N, 1, 1, H / 2, W / 2) number of the pixel in its cell, 0-3.

    Returns:
        (N, C, H / 2, W / 2).
    """
    count, channels, height, width = batch.shape
    cells = F.pixel_unshuffle(batch, 2).reshape(count, channels, 4, height // 2, width // 2)
    return cells.gather(2, choice.expand(-1, channels, -1, -1, -1)).squeeze(2)


def regulariser(restored: Tensor, target: Tensor, offset: Tensor) -> Tensor:
    """Ask that input and target differ as much as they do in the restored whole (equation 9).

    Args:
        restored: (N, C, H, W) prediction from the first sub-image.
        target: (N, C, H, W) the second sub-image.
        offset: (N, C, H, W) the first minus the second sub-image of the restored whole.

    Returns:
        A scalar, weighted with `GAMMA`.
    """
    return GAMMA * F.mse_loss(restored - offset, target)
