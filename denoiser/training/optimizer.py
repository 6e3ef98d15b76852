"""AdamW, and Muon for the kernels of hidden convolutions."""

from typing import Any

import torch
from torch import Tensor, nn

from denoiser.training.autoencoder import ConvAutoencoder
from denoiser.training.recipe import Training


class Optimizer:
    """AdamW (Loshchilov and Hutter 2019), and Muon (Jordan et al. 2024) where it is wanted.

    Muon makes the step of a matrix orthogonal. A kernel (O, I, K, K) is taken as the matrix
    (O, K K I) that it is to its inputs. The first and the last convolutions, and biases, stay with
    AdamW. Steps are scaled so that the rate means the same as AdamW's (Liu et al. 2025).
    """

    def __init__(self, network: ConvAutoencoder, training: Training) -> None:
        """Hold on to a network's parameters, whose memory is channels_last."""
        self.training = training
        self.kernels = hidden_kernels(network) if training.muon_rate else []
        self.matrices = [  # of the same memory
            _channels_last(kernel.detach()).view(len(kernel), -1) for kernel in self.kernels
        ]
        learning = [p for p in network.parameters() if p.requires_grad]
        others = set(learning) - set(self.kernels)
        self.parts: dict[str, torch.optim.Optimizer] = {
            "adamw": torch.optim.AdamW(
                [parameter for parameter in learning if parameter in others],
                betas=(0.9, 0.99),
                weight_decay=training.weight_decay,
            )
        }
        if self.kernels:
            self.parts["muon"] = torch.optim.Muon(
                self.matrices,
                weight_decay=training.weight_decay,
                adjust_lr_fn="match_rms_adamw",
            )

    def zero_grad(self) -> None:
        """Forget the gradients."""
        self.parts["adamw"].zero_grad()
        for kernel in self.kernels:
            kernel.grad = None

    def step(self, share: float) -> None:
        """Take a step at a share, 0 to 1, of the full rates."""
        for kernel, matrix in zip(self.kernels, self.matrices, strict=True):
            assert kernel.grad is not None
            matrix.grad = _channels_last(kernel.grad).reshape(matrix.shape)
        rates = {"adamw": self.training.rate, "muon": self.training.muon_rate}
        for name, part in self.parts.items():
            for group in part.param_groups:
                group["lr"] = share * rates[name]
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
        ends |= {network.estimator.layers[1], network.estimator.layers[-1]}
    return [
        module.weight
        for module in network.modules()
        if isinstance(module, nn.Conv2d) and module not in ends and module.weight.requires_grad
    ]


def _channels_last(kernel: Tensor) -> Tensor:
    """Turn (O, I, K, K) into (O, K, K, I)."""
    return kernel.permute(0, 2, 3, 1)
