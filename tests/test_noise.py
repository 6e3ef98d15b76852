import numpy as np
import pytest

from denoiser.noise import CONTRAST, SPREAD, estimate_sigma, limit_to_calm


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


def test_texture_is_no_noisier_than_calm_places_of_its_brightness():
    levels = np.full((40, 60), 0.02, np.float32)
    brightness = np.full((40, 60), 0.5, np.float32)
    levels[:30, :50] = 0.1  # more than half of the picture
    limited = limit_to_calm(levels, brightness)
    np.testing.assert_allclose(limited[:30, :50], SPREAD * 0.02, rtol=1e-5)
    np.testing.assert_array_equal(limited[30:], levels[30:])


def test_noise_that_is_everywhere_stays(rng):
    levels = rng.normal(0.1, 0.005, (40, 60)).astype(np.float32)
    brightness = rng.random((40, 60), np.float32)
    np.testing.assert_array_equal(limit_to_calm(levels, brightness), levels)


def test_noise_may_grow_with_brightness_but_not_without_bounds():
    brightness = np.linspace(0, 1, 3000, dtype=np.float32).reshape(50, 60)
    levels = 0.02 * (1 + 0.5 * brightness)
    np.testing.assert_allclose(limit_to_calm(levels, brightness), levels, rtol=0.1)
    steep = 0.02 * (1 + 9 * brightness)
    assert limit_to_calm(steep, brightness).max() <= CONTRAST * 0.03


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (3, 2)])
def test_few_places_are_enough(shape, rng):
    levels = rng.random(shape, np.float32)
    limited = limit_to_calm(levels, rng.random(shape, np.float32))
    assert limited.shape == shape and limited.dtype == np.float32
    assert (limited <= levels).all() and (limited > 0).all()
    assert limited.min() == levels.min()
