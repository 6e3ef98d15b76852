import dataclasses

import torch
from conftest import CPU, TINY

from denoiser.training.optimizer import Muon, Optimizer, hidden_kernels
from denoiser.training.trainer import Trainer

MUON = dataclasses.replace(
    TINY,
    network=dataclasses.replace(TINY.network, estimator=2),
    training=dataclasses.replace(TINY.training, rate=1e-30, muon_rate=1e-2),
)


def test_muon_takes_the_kernels_between_hidden_channels():
    network = Trainer(MUON, CPU, "fp32").model
    hidden = {id(kernel) for kernel in hidden_kernels(network)}
    others = {name for name, value in network.named_parameters() if id(value) not in hidden}
    ends = {"head.weight", "tail.weight", "estimator.layers.0.weight", "estimator.layers.14.weight"}
    assert {name for name in others if name.endswith(".weight")} == ends
    assert all(value.ndim == 4 for value in network.parameters() if id(value) in hidden)


def test_muon_steps_along_orthogonal_matrices_of_the_rate():
    network = Trainer(MUON, CPU, "fp32").model
    optimizer = Optimizer(network, MUON.training)
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    for parameter in network.parameters():
        parameter.grad = torch.randn(parameter.shape)
    optimizer.step(0.5)
    hidden = {id(kernel) for kernel in hidden_kernels(network)}
    for name, value in network.named_parameters():
        step = (value.detach() - before[name]).permute(0, 2, 3, 1) if value.ndim == 4 else None
        if step is None or id(value) not in hidden:
            assert torch.equal(value, before[name])  # AdamW, whose rate is next to nothing
            continue
        step = step.reshape(len(value), -1)
        singular = torch.linalg.svdvals(step)
        unit = 0.5 * MUON.training.muon_rate * 0.2 * max(step.shape) ** 0.5
        assert singular.min() > 0.5 * unit and singular.max() < 1.5 * unit


def test_muon_steps_as_torchs_does():
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(24, 40, generator=generator)
    own, torchs = start.clone(), start.clone()
    optimizers = (
        Muon([own], weight_decay=0.1),
        torch.optim.Muon([torchs], weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
    )
    for _ in range(3):
        own.grad = torch.randn(24, 40, generator=generator)
        torchs.grad = own.grad.clone()
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = 1e-2
            optimizer.step()
    moved = (torchs - start).norm()
    assert (own - torchs).norm() < 0.03 * moved  # which computes in bf16
