import math

import pytest
import torch
from torch.func import jacrev

from denoiser.training import penalties
from denoiser.training.autoencoder import ConvAutoencoder
from denoiser.training.recipe import Network

IMAGE_PX = 16


def seeded(number=0):
    return torch.Generator().manual_seed(number)


@pytest.fixture
def network():
    torch.manual_seed(0)
    shape = Network(channels=(8, 16), blocks=1, skips=False, noise_map=False, code_channels=12)
    return ConvAutoencoder(shape).double()


def squared_norm(network, images):
    """Of the whole Jacobian of each image, by forming it; per code position."""
    norms = []
    for image in images:
        jacobian = jacrev(lambda x: network.encode(x[None])[0][0])(image)
        norms.append(jacobian.square().sum() / jacobian.shape[1] / jacobian.shape[2])
    return torch.stack(norms).mean().detach()


def test_l1_is_the_mean_absolute_activation():
    assert penalties.l1(torch.tensor([[[[1.0, -2.0]], [[0.0, 5.0]]]])).item() == 2


def test_kl_matches_the_formula():
    code = torch.rand(4, 7, 5, 3, generator=seeded()) * 0.9 + 0.05
    rho, expected = 0.2, 0.0
    for unit in range(7):
        mean = code[:, unit].double().mean().item()
        expected += rho * math.log(rho / mean) + (1 - rho) * math.log((1 - rho) / (1 - mean))
    assert penalties.kl(code, rho).item() == pytest.approx(expected, abs=1e-6)


def test_kl_is_zero_and_flat_where_the_mean_activation_is_rho():
    code = torch.full((2, 3, 4, 4), 0.3)
    code[:, :, ::2] += 0.1
    code[:, :, 1::2] -= 0.1
    code.requires_grad_()
    term = penalties.kl(code, 0.3)
    term.backward()
    assert term.item() == pytest.approx(0, abs=1e-6)
    assert code.grad.abs().max().item() == pytest.approx(0, abs=1e-6)
    assert penalties.kl(code + 0.01, 0.3) > 1e-4 < penalties.kl(code - 0.01, 0.3)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_kl_stays_finite_for_units_that_never_or_always_fire(value):
    assert torch.isfinite(penalties.kl(torch.full((1, 2, 3, 3), value), 0.05))


def test_small_codes_are_contracted_exactly(network):
    images = torch.rand(3, 3, 4, 4, generator=seeded(), dtype=torch.float64).requires_grad_()
    code = network.encode(images)[0]
    assert code[0].numel() == 12 <= penalties.EXACT_UNITS
    found = penalties.contraction(code, images, seeded())
    torch.testing.assert_close(found.double(), squared_norm(network, images), rtol=1e-6, atol=0)


def test_hutchinson_agrees_with_jacrev_within_its_confidence_interval(network):
    shape = (1, 3, IMAGE_PX, IMAGE_PX)
    image = torch.rand(shape, generator=seeded(), dtype=torch.float64).requires_grad_()
    code = network.encode(image)[0]
    assert code[0].numel() > penalties.EXACT_UNITS
    generator, probes = seeded(1), 400
    estimates = torch.stack(
        [penalties.contraction(code, image, generator).detach() for _ in range(probes)]
    )
    error = estimates.std() / math.sqrt(probes)
    exact = squared_norm(network, image)
    assert abs(estimates.mean() - exact) < 2.58 * error  # 99 %
    assert error < 0.02 * exact
    several = penalties.contraction(code, image, seeded(1), probes=probes)
    torch.testing.assert_close(several.detach(), estimates.mean(), rtol=1e-5, atol=0)


def test_the_estimate_does_not_grow_with_the_picture(network):
    norms = []
    for side in (16, 64):
        image = torch.rand(2, 3, side, side, generator=seeded(), dtype=torch.float64)
        image.requires_grad_()
        code = network.encode(image)[0]
        norms.append(penalties.contraction(code, image, seeded(), probes=30).item())
    assert norms[1] == pytest.approx(norms[0], rel=0.15)  # borders see less


def test_descending_the_estimate_contracts_the_code(network):
    images = torch.rand(2, 3, IMAGE_PX, IMAGE_PX, generator=seeded(), dtype=torch.float64)
    before = squared_norm(network, images)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    generator = seeded(1)
    for _ in range(60):
        images.requires_grad_()
        optimizer.zero_grad()
        penalties.contraction(network.encode(images)[0], images, generator).backward()
        optimizer.step()
    assert squared_norm(network, images.detach()) < before / 2


def test_the_gradient_of_the_estimate_is_that_of_the_norm(network):
    """In expectation: the mean of many probes against differentiating the exact norm."""
    image = torch.rand(1, 3, 8, 8, generator=seeded(), dtype=torch.float64).requires_grad_()
    weight = network.head.weight

    def gradient(probes):
        code = network.encode(image)[0]
        return torch.autograd.grad(penalties.contraction(code, image, seeded(), probes), weight)[0]

    exact = gradient(1)  # 48 units
    previous, penalties.EXACT_UNITS = penalties.EXACT_UNITS, 0
    try:
        estimated = gradient(2000)
    finally:
        penalties.EXACT_UNITS = previous
    assert torch.cosine_similarity(exact.flatten(), estimated.flatten(), 0) > 0.99
    assert estimated.norm().item() == pytest.approx(exact.norm().item(), rel=0.05)
