import numpy as np
import pytest

from denoiser.noise import estimate_sigma


@pytest.mark.parametrize("sigma", [5, 15, 25, 50])
def test_estimates_gaussian_noise_on_a_photograph(photo, rng, sigma):
    noisy = (photo / 255 + rng.normal(0, sigma / 255, photo.shape)).astype(np.float32)
    assert estimate_sigma(noisy) * 255 == pytest.approx(sigma, abs=1.0)


def test_integers_count_as_zero_to_one(rng):
    image = rng.integers(0, 256, (64, 64, 3), np.uint8)
    assert estimate_sigma(image) == pytest.approx(estimate_sigma(image.astype(np.uint16) * 257))


@pytest.mark.parametrize("shape", [(1, 1, 3), (7, 100, 1), (12, 12, 3)])
def test_pictures_too_small_to_tell_count_as_clean(shape, rng):
    assert estimate_sigma(rng.random(shape, np.float32)) == 0


def test_flat_picture_is_clean():
    assert estimate_sigma(np.full((64, 64, 3), 77, np.uint8)) == pytest.approx(0, abs=1e-6)
