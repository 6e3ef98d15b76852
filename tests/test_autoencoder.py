"""The family's shape, and its members against theory."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import vector_field
from conftest import CPU, TINY

from denoiser import noise
from denoiser.training.autoencoder import ConvAutoencoder, join, pool, split
from denoiser.training.dataset import Crops
from denoiser.training.recipe import Network, Recipe, Training
from denoiser.training.trainer import Trainer


def test_network_keeps_the_size_and_codes_at_the_stride():
    network = ConvAutoencoder(TINY.network)
    image, sigma = torch.rand(2, 3, 16, 24), torch.rand(2, 1, 16, 24)
    assert network(image, sigma).shape == image.shape
    code, skips = network.encode(image, sigma)
    assert code.shape == (2, 16, 16 // network.stride, 24 // network.stride) and len(skips) == 1


def test_without_skips_everything_passes_through_the_code():
    network = ConvAutoencoder(dataclasses.replace(TINY.network, skips=False, code_channels=5))
    image, sigma = torch.rand(2, 3, 16, 24), torch.rand(2, 1, 16, 24)
    code, skips = network.encode(image, sigma)
    assert code.shape == (2, 5, 4, 6)
    with torch.no_grad():
        expected = network.decode(code, skips)
        ruined = [torch.full_like(skip, torch.nan) for skip in skips]
        assert torch.equal(network.decode(code, ruined), expected)
        assert torch.equal(network(image, sigma), expected)


def test_phases_are_the_sub_pictures_and_join_again():
    image = torch.rand(2, 3, 12, 18)
    parts = split(image, 3)
    assert parts.shape == (18, 3, 4, 6) and torch.equal(join(parts, 3), image)
    assert torch.equal(parts[9 + 5], image[1, :, 1::3, 2::3])


def test_a_network_with_phases_restores_each_sub_picture_alone():
    network = ConvAutoencoder(dataclasses.replace(TINY.network, phases=2))
    image, sigma = torch.rand(1, 3, 16, 32), torch.rand(1, 1, 16, 32)
    assert network.stride == 8
    with torch.no_grad():
        restored = network(image, sigma)
        alone, _ = network.reconstruct(image[:, :, ::2, 1::2], sigma[:, :, ::2, 1::2])
    torch.testing.assert_close(restored[:, :, ::2, 1::2], alone)


@pytest.mark.parametrize(
    ("activation", "function"), [("relu", torch.relu), ("sigmoid", torch.sigmoid)]
)
def test_the_code_passes_through_its_activation(activation, function):
    shape = dataclasses.replace(TINY.network, noise_map=False)
    plain = ConvAutoencoder(shape)
    network = ConvAutoencoder(dataclasses.replace(shape, code_activation=activation))
    network.load_state_dict(plain.state_dict())
    image = torch.randn(2, 3, 32, 32)
    assert torch.equal(network.encode(image)[0], function(plain.encode(image)[0]))


def test_a_linear_autoencoder_spans_the_principal_subspace(photo):
    """Baldi and Hornik 1989: squared error and a linear bottleneck find the span of PCA.

    Two components, because the third and fourth of photographs are alike: slopes down and across.
    """
    side, units = 4, 2
    shape = Network(
        channels=(units,), blocks=0, unshuffle=side, skips=False, noise_map=False
    )  # one position of 48 values: 3x3 convolutions see zeros around it and are plain matrices
    training = Training(
        steps=2000, batch=512, crop_px=side, rate=1e-2, warmup_steps=50, weight_decay=0, loss="l2",
        largest_gradient=10,
    )  # fmt: skip
    trainer = Trainer(Recipe("pca", shape, training=training), CPU, "fp32")
    crops = Crops([photo], side, CPU)
    for _ in range(training.steps):
        trainer.train_step(crops)

    generator = torch.Generator().manual_seed(1)
    patches = crops.sample(200_000, generator).flatten(1)
    _, _, axes = torch.linalg.svd(patches - patches.mean(0), full_matrices=False)
    with torch.no_grad():
        network = trainer.averaged
        origin = network.decode(torch.zeros(1, units, 1, 1), [])
        directions = network.decode(torch.eye(units)[:, :, None, None], []) - origin
    spanned, _ = torch.linalg.qr(directions.flatten(1).T)  # (48, units)
    cosines = torch.linalg.svdvals(spanned.T @ axes[:units].T)
    angles = torch.rad2deg(torch.arccos(cosines.clamp(max=1)))
    assert angles.max() < 1, angles


def test_a_denoiser_points_toward_the_data():
    """Alain and Bengio 2014: on a curve in the plane, the change is E[clean | x] - x."""
    generator = torch.Generator().manual_seed(2)
    data = vector_field.curve()
    chosen = data[torch.randint(len(data), (2000,), generator=generator)]
    points = chosen + vector_field.SIGMA * torch.randn(chosen.shape, generator=generator)
    learned = vector_field.learned_change(vector_field.train(), points)
    ideal = vector_field.ideal_change(points)
    assert torch.cosine_similarity(learned, ideal).median() > 0.99
    assert (learned - ideal).square().mean() < 0.06 * ideal.square().mean()
    before, after = (torch.cdist(place, data).amin(1) for place in (points, points + learned))
    far = before > vector_field.SIGMA
    assert after[far].mean() < before[far].mean() / 4


ESTIMATING = dataclasses.replace(TINY.network, estimator=4)


def test_half_greys_are_seen_under_bf16():
    image = torch.rand(1, 3, 16, 16).round(decimals=1) + 0.8
    seen = ConvAutoencoder(TINY.network).head
    inputs = torch.cat([image, image[:, :1]], 1)
    with torch.autocast("cpu", torch.bfloat16):
        found = seen(inputs + 0.4 / 255) - seen(inputs)
    torch.testing.assert_close(found, seen(inputs + 0.4 / 255) - seen(inputs))
    assert found.dtype == torch.float32 and found.abs().max() > 0


def test_levels_are_averaged_as_by_the_engine(rng):
    image = torch.from_numpy(rng.random((2, 3, 32, 48), np.float32) ** 3)
    image[0, :, :8] = 0  # tells nothing
    levels = torch.from_numpy(rng.uniform(0.01, 0.05, (2, 1, 4, 6)).astype(np.float32))
    brightness = F.avg_pool2d(image.mean(1), 8)
    pairs = zip(levels[:, 0].numpy(), brightness.numpy(), strict=True)
    expected = [noise.pool(*pair) for pair in pairs]
    found = pool(levels, image)[:, 0].numpy()
    # which is between 17 shades of grey
    np.testing.assert_allclose(found, np.stack(expected), rtol=0.02)
    assert np.abs(found / levels[:, 0].numpy() - 1).max() > 0.2


def test_no_noise_means_no_change_and_half_the_noise_is_half_the_estimate():
    torch.manual_seed(0)
    network = ConvAutoencoder(ESTIMATING)
    assert network.stride == 8
    image, level = torch.rand(2, 3, 32, 48), torch.ones(2, 1, 32, 48)
    with torch.no_grad():
        assert torch.equal(network(image, 0 * level), image)
        restored, estimate = network.restore(image, -level)
        assert not torch.equal(restored, image)
        assert estimate.shape == (2, 1, 4, 6) and (estimate > 0).all()
        half, _ = network.noise_level(image, -0.5 * level)
        whole, _ = network.noise_level(image, -level)
        torch.testing.assert_close(half, whole / 2)
        torch.testing.assert_close(network(image, half), network(image, -0.5 * level))
        given, _ = network.noise_level(image, 0.3 * level)
        assert torch.equal(given, 0.3 * level)
