import numpy as np
import pytest

import denoiser
from denoiser import catalog
from denoiser.noise import APART, CALMEST, FLAT_PX, estimate_sigma, mirror_into_flats, pool


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
    levels[:10] = 0.03  # texture, say, which counts less
    brightness[20:] = 0.9
    pooled = pool(levels, brightness)
    trust = 1 / (np.float32([0.02, 0.03]) + CALMEST)
    np.testing.assert_allclose(pooled[:20], np.average([0.02, 0.03], weights=trust), rtol=0.01)
    assert pooled[:20].max() < 0.0245
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
    np.testing.assert_allclose(pooled[:20], 0.2 / APART, rtol=1e-5)


def test_a_black_border_tells_nothing_of_shadows():
    levels = np.full((40, 60), 0.03, np.float32)
    brightness = np.full((40, 60), 0.05, np.float32)
    levels[:30], brightness[:30] = 1e-4, 0
    np.testing.assert_allclose(pool(levels, brightness)[30:], 0.03, rtol=1e-3)


def test_a_frame_shows_its_picture_mirrored(rng):
    picture = rng.random((3, 40, 50), np.float32)
    framed = np.pad(picture, ((0, 0), (30, 0), (0, FLAT_PX)), constant_values=1)
    seen = framed.copy()
    flat = mirror_into_flats(seen)
    np.testing.assert_array_equal(seen[:, 30:, :50], picture)
    np.testing.assert_array_equal(seen[:, 20:30, 10:40], picture[:, 10:0:-1, 10:40])
    assert flat[:30].all() and flat[:, 50:].all() and not flat[30:, :50].any()


@pytest.mark.parametrize(("side", "flat_px"), [(64, 0), (64, FLAT_PX - 1), (64, 64), (7, 7)])
def test_a_picture_with_nothing_flat_or_nothing_else_is_seen_as_it_is(side, flat_px, rng):
    image = rng.random((3, side, side), np.float32)
    middle = slice((side - flat_px) // 2, (side + flat_px) // 2)
    image[:, middle, middle] = 0.5
    before = image.copy()
    assert mirror_into_flats(image) is None
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("name", catalog.SIZES)
def test_noise_beside_a_frame_or_around_a_cut_out_is_found(photo, rng, name):
    model = denoiser.load_model(name, device="cpu")
    noisy = np.clip(np.rint(photo + rng.normal(0, 15, photo.shape)), 0, 255).astype(np.uint8)
    framed = noisy.copy()
    framed[:96], framed[:, -40:] = 255, 0
    whole, beside = (denoiser.denoise(image, model=model) for image in (noisy, framed))
    apart = np.abs(whole.astype(int) - beside)[112:, :-56]
    assert apart.mean() < 0.5
    np.testing.assert_allclose(beside[:80, :-40], 255, atol=1)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (3, 2)])
@pytest.mark.parametrize("light", [0, 0.5])
def test_few_places_are_enough(shape, light, rng):
    levels = rng.random(shape, np.float32)
    pooled = pool(levels, np.full_like(levels, light))
    assert pooled.shape == shape and pooled.dtype == np.float32
    mean = np.average(levels, weights=1 / (levels + CALMEST))
    np.testing.assert_allclose(pooled, mean.clip(levels / APART, levels * APART), rtol=1e-5)
