"""AdamW, and Muon for the kernels of hidden convolutions."""

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from denoiser.training.autoencoder import ConvAutoencoder
from denoiser.training.recipe import Training

MOMENTUM = 0.95
QUINTIC = (3.4445, -4.7750, 2.0315)  # by Jordan et al.: takes 0-1 near 1 in few steps
ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024), which makes the step of a matrix orthogonal.

    A kernel (O, I, K, K) is taken as the matrix (O, I K K) that it is to its inputs. Steps are
    scaled so that the rate means the same as AdamW's (Liu et al. 2025). torch's own computes in
    bf16 always, which takes seconds a step on a CPU without bf16.
    """

    def __init__(self, kernels: Iterable[Tensor], weight_decay: float) -> None:
        """Take charge of kernels; "lr" of the only group is set before each step."""
        super().__init__(kernels, {"lr": 0.0, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Step against the gradient with Nesterov's momentum."""
        for group in self.param_groups:
            alike = defaultdict(list)  # kernels of one shape go together: a GPU is asked less often
            for kernel in group["params"]:
                if not self.state[kernel]:
                    self.state[kernel]["momentum"] = torch.zeros_like(kernel)
                alike[kernel.shape].append(kernel)
            for shape, kernels in alike.items():
                momenta = [self.state[kernel]["momentum"] for kernel in kernels]
                gradients: list[Tensor] = [kernel.grad for kernel in kernels]
                torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
                ahead = torch.stack(torch._foreach_lerp(gradients, momenta, MOMENTUM)).flatten(2)
                torch._foreach_mul_(kernels, 1 - group["lr"] * group["weight_decay"])
                rate = group["lr"] * 0.2 * math.sqrt(max(ahead.shape[1:]))
                steps = orthogonal(ahead).to(ahead.dtype).reshape(-1, *shape)
                torch._foreach_sub_(kernels, steps.unbind(), alpha=rate)


def orthogonal(matrices: Tensor) -> Tensor:
    """Bring the singular values of (N, O, I) between about 0.7 and 1.2 by Newton-Schulz iteration.

    A step multiplies X by a polynomial P of X X'. So X X' becomes P X X' P, and the steps need only
    these smaller matrices: their product is multiplied with X at the end.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x: Tensor = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    linear, cubic, quintic = QUINTIC
    gram = x @ x.mT
    product = torch.eye(gram.shape[1]).to(gram).expand_as(gram)
    for _ in range(ITERATIONS):
        step = torch.baddbmm(gram, gram, gram, beta=cubic, alpha=quintic)
        step.diagonal(dim1=1, dim2=2).add_(linear)
        product = step @ product
        gram = step @ gram @ step
    x = product @ x
    return x.mT if tall else x


class Optimizer:
    """AdamW (Loshchilov and Hutter 2019), and `Muon` where it is wanted.

    The first and the last convolutions, and biases, stay with AdamW.
    """

    def __init__(self, network: ConvAutoencoder, training: Training) -> None:
        """Hold on to a network's parameters."""
        kernels = hidden_kernels(network) if training.muon_rate else []
        learning = [p for p in network.parameters() if p.requires_grad]
        others = set(learning) - set(kernels)
        self.parts: dict[str, torch.optim.Optimizer] = {
            "adamw": torch.optim.AdamW(
                [parameter for parameter in learning if parameter in others],
                betas=(0.9, 0.99),
                weight_decay=training.weight_decay,
            )
        }
        if kernels:
            self.parts["muon"] = Muon(kernels, training.weight_decay)
        self.rates = {"adamw": training.rate, "muon": training.muon_rate}

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for part in self.parts.values():
            part.zero_grad()

    def step(self, share: float) -> None:
        """Take a step at a share, 0 to 1, of the full rates."""
        for name, part in self.parts.items():
            for group in part.param_groups:
                group["lr"] = share * self.rates[name]
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint has to keep."""
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        for name, part in self.parts.items():
            part.load_state_dict(state[name])


def hidden_kernels(network: ConvAutoencoder) -> list[Tensor]:
    """Kernels that learn, of convolutions that neither read the image nor write the result."""
    ends: set[nn.Module] = {network.head, network.tail}
    if network.estimator is not None:
        ends |= {network.estimator.layers[0], network.estimator.layers[-1]}
    return [
        module.weight
        for module in network.modules()
        if isinstance(module, nn.Conv2d) and module not in ends and module.weight.requires_grad
    ]
