"""What the family's members add to the loss to shape the code: sparse and contractive terms."""

import torch
from torch import Tensor, distributed

EXACT_UNITS = 64
"""Up to so many units the contractive term is computed exactly."""


def l1(code: Tensor) -> Tensor:
    """Mean absolute activation of the code (N, C, H, W); a scalar."""
    return code.float().abs().mean()


def kl(code: Tensor, rho: float) -> Tensor:
    """Sum over code units of KL(rho, rho_hat), the sparse autoencoder's term (Ng 2011).

    Args:
        code: (N, C, H, W) activations in (0, 1); a unit is one of the C channels and its mean
            activation rho_hat is over batch and positions, those of other processes included.
        rho: Mean activation that is wanted, in (0, 1).

    Returns:
        A scalar, zero where every unit's mean activation is rho.
    """
    mean = code.float().mean((0, 2, 3))  # rho_hat: (C,)
    if distributed.is_initialized():  # its value is everybody's, its gradient this process's share
        everywhere = mean.detach().clone()
        distributed.all_reduce(everywhere)
        mean = mean + (everywhere / distributed.get_world_size() - mean.detach())
    mean = mean.clamp(1e-6, 1 - 1e-6)
    target = torch.full_like(mean, rho)
    divergence = target * (target / mean).log() + (1 - target) * ((1 - target) / (1 - mean)).log()
    return divergence.sum()


def contraction(code: Tensor, image: Tensor, generator: torch.Generator, probes: int = 1) -> Tensor:
    """Squared Frobenius norm of d code / d image (Rifai et al. 2011), per code position.

    Exact where the code has at most `EXACT_UNITS` units; else estimated without bias from random
    probes, by E |J^T v|^2 = |J|_F^2 for v of independent signs (Hutchinson 1989).

    Args:
        code: (N, C, H, W), computed from `image`, sample by sample, with gradients on.
        image: What to differentiate by; requires grad.
        generator: Source of the probes, on the device of `code`.
        probes: Vector-Jacobian products to average over.

    Returns:
        A scalar that can be differentiated again: the norm of the whole Jacobian of a sample,
        divided by H * W and averaged over the batch, so that it does not grow with the picture.
    """
    units = code[0].numel()
    if units <= EXACT_UNITS:
        output = code.flatten(1)
        unit_vectors = torch.eye(units, device=code.device, dtype=code.dtype)
        vectors = [vector.expand_as(output) for vector in unit_vectors]
        count = 1
    else:
        output, count = code, probes
        vectors = [_signs(code, generator) for _ in range(probes)]
    total = torch.zeros((), device=code.device)
    for vector in vectors:
        (product,) = torch.autograd.grad(output, image, vector, create_graph=True)  # J^T v
        total = total + (product.float() ** 2).sum()
    positions = code.shape[2] * code.shape[3]
    return total / (count * len(code) * positions)


def _signs(code: Tensor, generator: torch.Generator) -> Tensor:
    bits = torch.randint(2, code.shape, device=code.device, generator=generator)
    return (2 * bits - 1).to(code.dtype)
