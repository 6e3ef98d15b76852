"""Channels that have died: where a rectifier never lets anything through, no gradient comes back.

AdamW left 139 of the 256 hidden channels of a network's coarsest level dead, Muon 255 (see
scripts/LOG.md).
"""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from denoiser.training.autoencoder import ConvAutoencoder, ResidualBlock

ALIGNED = 16
"""`prune` keeps a multiple of so many channels: onnxruntime works on 8 or 16 at once."""


@torch.no_grad()
def find_dead(network: ConvAutoencoder, look: Callable[[], object]) -> dict[str, Tensor]:
    """Find hidden channels of residual blocks whose rectifier lets nothing through.

    Args:
        network: Whose.
        look: Runs it on examples.

    Returns:
        (C,) bool of each block that has any, by its name: which channels are dead.
    """
    largest = _watch(_blocks(network), look, lambda _, out: out.amax((0, 2, 3)), torch.maximum)
    return {name: where <= 0 for name, where in largest.items() if (where <= 0).any()}


@torch.no_grad()
def prune(network: ConvAutoencoder, dead: Mapping[str, Tensor]) -> int:
    """Leave dead hidden channels out, for a network that no longer learns.

    Args:
        network: To change.
        dead: What `find_dead` gave.

    Returns:
        How many channels were left out: as many as leave a multiple of `ALIGNED`.
    """
    blocks, count = _blocks(network), 0
    for name, where in dead.items():
        first, second = blocks[name].conv1, blocks[name].conv2
        kernel, bias = _kernel_and_bias(blocks[name])
        alive = int((~where).sum())
        most = min(len(where), max(1, math.ceil(alive / ALIGNED)) * ALIGNED)
        kept = where.long().argsort(stable=True)[:most].sort().values  # those alive, then others
        first.weight, first.bias = nn.Parameter(kernel[kept]), nn.Parameter(bias[kept])
        second.weight = nn.Parameter(second.weight[:, kept])
        first.out_channels = second.in_channels = most
        count += len(where) - most
    return count


@torch.no_grad()
def revive(network: ConvAutoencoder, look: Callable[[], object]) -> dict[str, Tensor]:
    """Start dead hidden channels of residual blocks afresh; what the network computes stays.

    They get random kernels, scaled and shifted so that the rectifier lets half of what it sees
    through, at the strength of the block's input (as LSUV does; Mishkin and Matas 2016). The
    second convolution begins by ignoring them.

    Args:
        network: To change, blocks that do not learn excepted.
        look: Runs it on examples; those of all calls are taken to be alike.

    Returns:
        (C,) bool of each block that has any, by its name: which channels were dead.
    """
    blocks = {
        name: block for name, block in _blocks(network).items() if block.conv1.weight.requires_grad
    }
    dead = {name: which for name, which in find_dead(network, look).items() if name in blocks}
    blocks = {name: blocks[name] for name in dead}
    for name, block in blocks.items():
        kernel, bias = _kernel_and_bias(block)
        fresh = torch.randn(kernel.shape).to(kernel) / math.sqrt(kernel[0].numel())
        kernel[dead[name]], bias[dead[name]] = fresh[dead[name]], 0
        block.conv2.weight[:, dead[name]] = 0
    moments = _watch(blocks, look, _moments, torch.add)
    for name, block in blocks.items():
        kernel, bias = _kernel_and_bias(block)
        count, square, first, second = moments[name]
        mean = first / count
        scale = (square / count / (second / count - mean.square()).clamp(min=1e-12)).sqrt()
        kernel[dead[name]] *= scale[dead[name], None, None, None]
        bias[dead[name]] = (-mean * scale)[dead[name]]
    return dead


def _blocks(network: ConvAutoencoder) -> dict[str, ResidualBlock]:
    modules = network.named_modules()
    return {name: module for name, module in modules if isinstance(module, ResidualBlock)}


def _kernel_and_bias(block: ResidualBlock) -> tuple[Tensor, Tensor]:
    """Of the convolution that makes the hidden channels."""
    assert block.conv1.bias is not None  # for mypy: every convolution of ours has one
    return block.conv1.weight, block.conv1.bias


def _moments(x: Tensor, hidden: Tensor) -> Tensor:
    """Count, sum of the input's mean square, sums of each channel and of its square, (4, C)."""
    x, hidden = x.float(), hidden.float()
    first, second = hidden.sum((0, 2, 3)), hidden.square().sum((0, 2, 3))
    count = torch.full_like(first, hidden[:, 0].numel())
    return torch.stack([count, count * x.square().mean(), first, second])


def _watch(
    blocks: Mapping[str, ResidualBlock],
    look: Callable[[], object],
    measure: Callable[[Tensor, Tensor], Tensor],
    join: Callable[[Tensor, Tensor], Tensor],
) -> dict[str, Tensor]:
    """Measure what goes into and comes out of the first convolution of blocks, over all calls."""
    found: dict[str, Tensor] = {}

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def note(module: nn.Module, inputs: tuple[Tensor, ...], hidden: Tensor) -> None:
            value = measure(inputs[0], hidden)
            found[name] = join(found[name], value) if name in found else value

        return note

    hooks = [block.conv1.register_forward_hook(hook(name)) for name, block in blocks.items()]
    try:
        look()
    finally:
        for registered in hooks:
            registered.remove()
    return found
