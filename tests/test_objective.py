import dataclasses

import numpy as np
import pytest
import torch
from conftest import TINY

from denoiser.training import neighbor2neighbor, penalties
from denoiser.training.autoencoder import ConvAutoencoder
from denoiser.training.objective import Objective, distance
from denoiser.training.recipe import Penalties


def test_distances():
    difference = torch.tensor([0.0, 0.5, -1.0])
    assert distance(difference, torch.zeros(3), "l1") == pytest.approx(0.5)
    assert distance(difference, torch.zeros(3), "l2") == pytest.approx(1.25 / 3)
    charbonnier = distance(difference, torch.zeros(3), "charbonnier").item()
    assert charbonnier == pytest.approx(np.sqrt(np.array([0, 0.25, 1]) + 1e-6).mean(), abs=1e-6)


@pytest.mark.parametrize("sparsity", ["none", "l1", "kl"])
@pytest.mark.parametrize("contraction", [0.0, 0.5])
def test_the_penalties_are_weighted_and_added_up(sparsity, contraction):
    weight = 0.0 if sparsity == "none" else 3.0
    shape = dataclasses.replace(TINY.network, code_activation="sigmoid", noise_map=False)
    options = Penalties(sparsity, weight, rho=0.2, contraction=contraction)
    recipe = dataclasses.replace(TINY, network=shape, penalties=options)
    network = ConvAutoencoder(shape)
    image, target, offset = (torch.rand(2, 3, 16, 16) for _ in range(3))
    objective = Objective(network, recipe, torch.Generator().manual_seed(1))
    loss, penalty = objective(image.clone(), image[:, :1], target, offset)

    restored, code = network.reconstruct(image.requires_grad_())
    expected = distance(restored, target, "l1")
    expected = expected + neighbor2neighbor.regulariser(restored, target, offset)
    torch.testing.assert_close(loss, expected)
    terms = {"none": torch.zeros(()), "l1": penalties.l1(code), "kl": penalties.kl(code, 0.2)}
    norm = penalties.contraction(code, image, torch.Generator().manual_seed(1))
    torch.testing.assert_close(penalty, weight * terms[sparsity] + contraction * norm)
