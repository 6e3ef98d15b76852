import numpy as np
import pytest

from denoiser.noise import APART, estimate_sigma, pool


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


def test_places_of_like_brightness_share_what_was_found():
    levels = np.full((40, 60), 0.02, np.float32)
    brightness = np.full((40, 60), 0.3, np.float32)
    levels[:10] = 0.03  # texture, say
    brightness[20:] = 0.9
    pooled = pool(levels, brightness)
    np.testing.assert_allclose(pooled[:20], 0.025, rtol=0.01)
    np.testing.assert_allclose(pooled[20:], 0.02, rtol=0.01)


def test_noise_may_grow_with_brightness():
    brightness = np.linspace(0.1, 0.9, 3000, dtype=np.float32).reshape(50, 60)
    levels = 0.02 * (1 + brightness)
    np.testing.assert_allclose(pool(levels, brightness), levels, rtol=0.1)


def test_parts_that_are_not_alike_stay_so():
    levels = np.full((40, 60), 0.001, np.float32)
    levels[:20] = 0.2
    pooled = pool(levels, np.full_like(levels, 0.5))
    np.testing.assert_allclose(pooled[20:], APART * 0.001, rtol=1e-5)
    np.testing.assert_allclose(pooled[:20], 0.1005, rtol=1e-3)


def test_a_black_border_tells_nothing_of_shadows():
    levels = np.full((40, 60), 0.03, np.float32)
    brightness = np.full((40, 60), 0.05, np.float32)
    levels[:30], brightness[:30] = 1e-4, 0
    np.testing.assert_allclose(pool(levels, brightness)[30:], 0.03, rtol=1e-3)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (3, 2)])
@pytest.mark.parametrize("light", [0, 0.5])
def test_few_places_are_enough(shape, light, rng):
    levels = rng.random(shape, np.float32)
    pooled = pool(levels, np.full_like(levels, light))
    assert pooled.shape == shape and pooled.dtype == np.float32
    mean = levels.mean()
    np.testing.assert_allclose(pooled, mean.clip(levels / APART, levels * APART), rtol=1e-5)
