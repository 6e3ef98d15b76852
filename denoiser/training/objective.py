"""What a training step minimises: the distance to the target, and the penalties on the code."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoiser.training import neighbor2neighbor, penalties
from denoiser.training.autoencoder import ConvAutoencoder
from denoiser.training.recipe import Recipe


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
            sigma: (N, 1, H, W) its noise level; ignored by a network without noise map.
            target: (N, 3, H, W) what it should say.
            offset: (N, 3, H, W) how far the target is expected to lie, see `neighbor2neighbor`.

        Returns:
            The loss without penalties, and the weighted penalties; scalars.
        """
        options = self.recipe.penalties
        if options.contraction:
            image = image.requires_grad_()
        restored, code = self.network.reconstruct(image, sigma)
        loss = distance(restored, target, self.recipe.training.loss)
        if offset is not None:
            loss = loss + neighbor2neighbor.regulariser(restored, target, offset)
        penalty = torch.zeros((), device=image.device)
        if options.sparsity == "l1":
            penalty = penalty + options.sparsity_weight * penalties.l1(code)
        elif options.sparsity == "kl":
            penalty = penalty + options.sparsity_weight * penalties.kl(code, options.rho)
        if options.contraction:
            norm = penalties.contraction(code, image, self.generator, options.probes)
            penalty = penalty + options.contraction * norm
        return loss, penalty


def distance(restored: Tensor, target: Tensor, name: str) -> Tensor:
    """L1, L2 (mean square), or Charbonnier sqrt(d^2 + eps^2), eps = 1e-3 (Lai et al. 2017)."""
    if name == "l1":
        return F.l1_loss(restored, target)
    if name == "l2":
        return F.mse_loss(restored, target)
    return torch.sqrt((restored - target) ** 2 + 1e-6).mean()
