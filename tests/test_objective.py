import dataclasses

import numpy as np
import pytest
import torch
from conftest import TINY

from denoiser.training import neighbor2neighbor, penalties
from denoiser.training.autoencoder import ConvAutoencoder
from denoiser.training.objective import Objective, distance, level_distance, local_level
from denoiser.training.recipe import Penalties


def test_distances():
    restored, target = torch.tensor([0.0, 0.5, -1.0]).reshape(1, 3, 1, 1), torch.zeros(1, 3, 1, 1)
    assert distance(restored, target, target, "l1") == pytest.approx(0.5)
    assert distance(restored, target, target, "l2") == pytest.approx(1.25 / 3)
    both = torch.cat([restored, target + 1]), torch.cat([target, target])
    assert distance(*both, both[0], "rmse") == pytest.approx((np.sqrt(1.25 / 3) + 1) / 2, abs=1e-5)
    charbonnier = distance(restored, target, target, "charbonnier").item()
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
    expected = distance(restored, target, image, "l1")
    expected = expected + neighbor2neighbor.regulariser(restored, target, offset)
    torch.testing.assert_close(loss, expected)
    terms = {"none": torch.zeros(()), "l1": penalties.l1(code), "kl": penalties.kl(code, 0.2)}
    norm = penalties.contraction(code, image, torch.Generator().manual_seed(1))
    torch.testing.assert_close(penalty, weight * terms[sparsity] + contraction * norm)


@pytest.mark.parametrize("name", ["l1", "rmse"])
def test_crops_with_little_noise_weigh_more_where_that_is_asked_for(name):
    target = torch.zeros(2, 3, 4, 4)
    restored = target + 0.1
    image = target + torch.tensor([0.0, 30 / 255])[:, None, None, None]  # 30 = 3 x the knee
    loss = distance(restored, target, image, f"weighted-{name}").item()
    assert loss == pytest.approx(0.1 * (1 + 1 / 4) / 2, rel=1e-4)


def test_the_local_level_is_that_of_the_noise():
    levels = torch.tensor([5.0, 40.0]) / 255  # left and right
    noise = torch.randn(1, 3, 128, 256, generator=torch.Generator().manual_seed(0))
    noise = noise * levels.repeat_interleave(128)
    found = local_level(noise)
    assert found.shape == (1, 1, 16, 32)
    torch.testing.assert_close(found[..., :14], levels[:1].expand(1, 1, 16, 14), rtol=0.1, atol=0)
    torch.testing.assert_close(found[..., 18:], levels[1:].expand(1, 1, 16, 14), rtol=0.1, atol=0)


def test_the_estimate_is_learned_along_with_the_picture():
    shape = dataclasses.replace(TINY.network, estimator=4)
    recipe = dataclasses.replace(
        TINY, network=shape, training=dataclasses.replace(TINY.training, estimate_weight=3.0)
    )
    network = ConvAutoencoder(shape)
    target, noise = torch.rand(2, 3, 32, 32), 0.1 * torch.randn(2, 3, 32, 32)
    image, sigma = target + noise, torch.full((2, 1, 32, 32), -1.0)
    loss, penalty = Objective(network, recipe, torch.Generator())(image, sigma, target)
    restored, estimate = network.restore(image, sigma, pooled=True)
    torch.testing.assert_close(loss, distance(restored, target, image, "l1"))
    torch.testing.assert_close(penalty, 3 * level_distance(estimate, noise))


def test_an_error_of_the_estimate_counts_less_where_there_is_more_noise():
    noise = torch.full((1, 3, 64, 64), 10 / 255)
    level = torch.full((1, 1, 8, 8), 10 / 255)
    for factor, expected in ((1, 0.0), (1.5, 2.5 / 255), (0.5, 2.5 / 255)):
        torch.testing.assert_close(level_distance(factor * level, noise), torch.tensor(expected))
    loud = level_distance(level * 9, 9 * noise + 5 / 255)
    torch.testing.assert_close(loud, torch.tensor(5 / 255 * 10 / (10 + 95)))
