import contextlib

import numpy as np
import pytest
from conftest import (
    FOUND,
    blur_onnx,
    brightness_as_noise_onnx,
    estimating_onnx,
    minus_sigma_onnx,
    surroundings_as_noise_onnx,
    tiny_onnx,
)
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

import denoiser
from denoiser import catalog, levels, restore, tiles
from denoiser.engine import Model
from denoiser.errors import (
    ArgumentError,
    InputError,
    ModelError,
    OutOfMemoryError,
    ShapeError,
)
from denoiser.noise import pool
from denoiser.picture import white_of_light
from denoiser.restore import denoise, denoise_channels

dtypes = st.sampled_from([np.uint8, np.uint16, np.float32])


def random_image(shape, dtype, seed=0):
    rng = np.random.default_rng(seed)
    if dtype == np.float32:
        return rng.random(shape, np.float32)
    return rng.integers(0, np.iinfo(dtype).max + 1, shape, dtype)


@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from([0, 1, 3]), dtypes)
def test_identity_model_returns_any_image_of_any_size(identity, height, width, channels, dtype):
    image = random_image((height, width, channels) if channels else (height, width), dtype)
    before = image.copy()
    restored = denoise(image, identity, tile_px=112)
    assert restored.dtype == image.dtype
    np.testing.assert_allclose(restored, image, atol=1e-6 if dtype == np.float32 else 0)
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("size", [(500, 333), (256, 900)])
def test_tiles_give_what_the_whole_image_gives(size):
    image = random_image((*size, 3), np.float32)
    model = Model(blur_onnx(8), device="cpu")
    whole = denoise(image, model, sigma=0.1, tile_px=2000)
    tiled = denoise(image, model, sigma=0.1, tile_px=128)
    np.testing.assert_allclose(tiled, whole, atol=2e-6)


@pytest.mark.parametrize("sigma", ["auto", 25 / 255])
@pytest.mark.parametrize("name", catalog.SIZES)
def test_released_models_have_no_seams(photo, rng, name, sigma):
    model = denoiser.load_model(name, device="cpu")
    noisy = np.clip(photo / 255 + rng.normal(0, 25 / 255, photo.shape), 0, 1).astype(np.float32)
    whole = denoise(noisy, model, sigma=sigma, tile_px=2000)
    tiled = denoise(noisy, model, sigma=sigma, tile_px=480)
    assert np.abs(tiled - whole).max() * 255 <= 0.2


@pytest.mark.parametrize(("sigma", "expected"), [("auto", FOUND), (0.2, 0.2)])
@pytest.mark.parametrize("strength", [1, 0.25])
def test_a_model_that_estimates_is_asked_to_or_told(sigma, expected, strength):
    model = Model(estimating_onnx(), device="cpu")
    assert model.contract.estimates and model.contract.inputs == ("image", "sigma")
    image = np.full((300, 200, 3), 0.5, np.float32)
    out = image.copy()
    options = {"sigma": sigma, "strength": strength, "tile_px": 128}
    (level,) = restore.denoise_channels([out], "RGB", model, **options)
    assert level == pytest.approx(expected)
    np.testing.assert_allclose(out, 0.5 - strength * expected, atol=1e-6)
    np.testing.assert_array_equal(denoise(image, model, **options), out)


@pytest.mark.parametrize("tile_px", [0, 160])
def test_the_estimate_is_pooled_over_the_whole_picture(tile_px):
    model = Model(brightness_as_noise_onnx(), device="cpu")
    places = np.full((16, 21), 0.1, np.float32)
    places[6:10, 10:15] = 0.5  # a tile of its own where there are tiles
    image = np.repeat(places.repeat(16, 0).repeat(16, 1)[:250, :330, None], 3, 2)
    out = image.copy()
    (level,) = restore.denoise_channels([out], "RGB", model, tile_px=tile_px)
    told, pooled = image - out, pool(places, places)
    np.testing.assert_allclose(told[:80], pooled[0, 0], rtol=1e-5)
    np.testing.assert_allclose(told[112:144, 176:224], pooled[7, 12], rtol=1e-5)
    assert pooled[0, 0] < 0.11 and 0.4 < pooled[7, 12] < 0.49
    assert level == pytest.approx(pooled.mean(), rel=1e-5)


def test_noise_is_estimated_with_its_own_halo():
    model = Model(surroundings_as_noise_onnx(), device="cpu")
    places = random_image((21, 32, 3), np.float32)
    image = places.repeat(16, 0).repeat(16, 1)[:333, :500]
    tiled = denoise(image, model, tile_px=160)
    np.testing.assert_allclose(tiled, denoise(image, model, tile_px=1000), atol=1e-6)


def test_half_precision_does_not_overflow():
    model = Model(tiny_onnx([helper.make_node("Add", ["image", "image"], ["restored"])]))
    image = np.array([[1, 60_000], [-2, 50_000]], np.float16)
    largest = np.finfo(np.float16).max
    np.testing.assert_array_equal(denoise(image, model), [[2, largest], [-4, largest]])


@pytest.mark.parametrize("tile", [72, 128])
def test_result_may_replace_the_input_while_tiles_are_read(tile):
    image = random_image((400, 300, 3), np.uint16)
    model = Model(blur_onnx(8), device="cpu")
    expected = denoise(image, model, tile_px=tile)
    assert denoise(image, model, tile_px=tile, out=image) is image
    np.testing.assert_array_equal(image, expected)


def test_strength_scales_what_is_removed_and_zero_is_exact():
    model = Model(minus_sigma_onnx(), device="cpu")
    image = np.full((16, 16, 3), 0.5, np.float32)
    for strength in (0, 0.25, 1):
        restored = denoise(image, model, sigma=0.2, strength=strength)
        np.testing.assert_allclose(restored, 0.5 - 0.2 * strength, atol=1e-6)
    noise = random_image((20, 20, 3), np.uint16)
    np.testing.assert_array_equal(denoise(noise, model, sigma=0.2, strength=0), noise)
    ink = random_image((20, 20, 4), np.float32) ** 3
    before = ink.copy()
    assert denoise_channels([ink], "CMYK", model, sigma=0.2, strength=0) == [0.2]
    np.testing.assert_array_equal(ink, before)


@pytest.mark.parametrize("strength", [0, 0.5, 1])
def test_colour_noise_is_removed_by_a_share_of_its_own(rng, strength):
    model = Model(
        tiny_onnx([helper.make_node("Mul", ["image", "sigma"], ["restored"])]), device="cpu"
    )
    image = rng.random((40, 48, 3), np.float32)  # of which sigma 0 leaves nothing: all is noise
    grey = image @ restore.LUMA
    left = (1 - strength) * grey[..., None]
    removed_all = denoise(image, model, sigma=0.0, strength=strength, chroma=1)
    np.testing.assert_allclose(removed_all, np.broadcast_to(left, image.shape), atol=1e-6)
    removed_none = denoise(image, model, sigma=0.0, strength=strength, chroma=0)
    np.testing.assert_allclose(removed_none, image - grey[..., None] + left, atol=1e-6)
    same = denoise(image, model, sigma=0.0, strength=strength, chroma=strength)
    np.testing.assert_array_equal(same, denoise(image, model, sigma=0.0, strength=strength))
    alone = denoise(image[..., 0], model, sigma=0.0, strength=strength, chroma=1)
    np.testing.assert_allclose(alone, (1 - strength) * image[..., 0], atol=1e-6)  # grey has none


def test_released_model_cleans_colour_and_grey(photo, rng):
    for clean in (photo[:256, :256], photo[:256, :256, :1]):
        noise = rng.normal(0, 25, clean.shape)
        noisy = np.clip(np.rint(clean + noise), 0, 255).astype(np.uint8)
        restored = denoiser.denoise(noisy)
        errors = [np.mean((image.astype(float) - clean) ** 2) for image in (noisy, restored)]
        assert 10 * np.log10(errors[0] / errors[1]) > 6


def test_level_is_limited_to_what_the_model_knows(photo):
    model = denoiser.load_model(device="cpu")
    assert levels.noise_level(photo, 200 / 255, model) == pytest.approx(60 / 255, abs=1e-5)
    assert levels.noise_level(photo, np.float32(0.125), model) == 0.125


def test_a_model_that_returns_nan_is_an_error():
    model = Model(tiny_onnx([helper.make_node("Log", ["image"], ["restored"])]), device="cpu")
    with pytest.raises(ModelError, match=r"returned NaN$"):
        denoise(np.zeros((16, 16, 3), np.uint8), model)


def test_float_whose_white_is_elsewhere_is_scaled():
    model = Model(minus_sigma_onnx(), device="cpu")
    image = np.linspace(0, 1000, 16 * 16 * 3, dtype=np.float32).reshape(16, 16, 3)
    np.testing.assert_allclose(denoise(image, model, sigma=0.1), image - 100, atol=1e-3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [1, 255])
@pytest.mark.parametrize("beyond", [5.0, 1e6, -9999.0, -3e38])
def test_what_is_no_light_is_left_as_it_is_and_harms_nothing(photo, rng, beyond, scale, dtype):
    model = denoiser.load_model("fast", device="cpu")
    image = (photo[:128, :128] / 255 + rng.normal(0, 0.1, (128, 128, 3))).astype(dtype) * scale
    expected = denoise(image, model) / scale
    image[:4, :4] = beyond * scale if abs(beyond) < 1e30 else beyond
    found = denoise(image, model)
    np.testing.assert_array_equal(found[:4, :4], image[:4, :4])
    assert np.abs(found / scale - expected)[:, 64:].max() < 0.01
    assert np.abs(found / scale - expected)[8:].mean() < 0.002
    np.testing.assert_array_equal(denoise(image, model, out=image), found)


@pytest.mark.parametrize("size", [(100, 100), (2000, 3000)])
def test_float_of_other_ranges_has_its_white_at_its_largest_value_but_for_a_few(rng, size):
    light = np.tile(rng.random((20, 20, 3)), (size[0] // 20, size[1] // 20, 1))
    for scale in (1, 255, 65535):
        image = light * scale
        white = 1 if scale == 1 else image.max()
        assert white_of_light(image) == white
        image[40, 60] = 1e7
        image[: size[0] // 2, size[1] // 5] = 1e7  # a hot column
        few = size[1] > 1000  # else it is not
        assert white_of_light(image) == (pytest.approx(white, rel=0.01) if few else 1e7)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "CMYK"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_alpha_is_untouched_and_ink_is_restored_as_light(mode, dtype):
    model = Model(minus_sigma_onnx(), device="cpu")
    white = np.iinfo(dtype).max
    pixels = np.full((16, 24, len(mode)), white // 2, dtype)
    if mode.endswith("A"):
        pixels[..., -1] = random_image((16, 24), dtype)
    before = pixels.copy()
    told = []
    levels = denoise_channels(
        [pixels], mode, model, sigma=0.25, progress=lambda done, total: told.append(done / total)
    )
    assert levels == [0.25]
    assert told == ([0.5, 1] if mode == "CMYK" else [1])
    change = 0.25 * white * (1 if mode == "CMYK" else -1)  # darker light is more ink
    colours = len(mode) - mode.endswith("A")
    np.testing.assert_allclose(pixels[..., :colours], white // 2 + change, atol=1)
    np.testing.assert_array_equal(pixels[..., colours:], before[..., colours:])


class Cramped:
    """A model on a device that has no memory for batches wider than `widest_px`, or some calls."""

    def __init__(self, model, widest_px=2**31, failing=()):
        self.model, self.contract = model, model.contract
        self.widest_px, self.failing, self.calls = widest_px, failing, 0

    def run(self, image, sigma):
        self.demand(image)
        return self.model.run(image, sigma)

    def estimate(self, image):
        self.demand(image)
        return self.model.estimate(image)

    def demand(self, image):
        self.calls += 1
        if image.shape[-1] > self.widest_px or self.calls in self.failing:
            raise OutOfMemoryError("out of memory")


def test_tiles_shrink_until_they_fit_the_device(identity):
    image = random_image((700, 700, 3), np.uint8)
    restored = denoise(image, Cramped(identity, 600), tile_px=1024, out=image.copy())
    np.testing.assert_array_equal(restored, image)
    with pytest.raises(OutOfMemoryError):
        denoise(image, Cramped(identity, 10))


@pytest.mark.parametrize(("onnx", "failing"), [(minus_sigma_onnx(), 3), (estimating_onnx(), 1)])
def test_memory_may_run_out_in_the_midst_of_it(onnx, failing):
    image, model = random_image((2000, 64, 3), np.float32), Model(onnx, device="cpu")
    sigma = "auto" if model.contract.estimates else 0.25
    restored = denoise(image, Cramped(model, failing=[failing]), sigma=sigma, tile_px=700)
    np.testing.assert_allclose(restored, denoise(image, model, sigma=sigma), atol=1e-6)


def test_what_is_restored_in_place_is_not_restored_twice():
    model = Cramped(Model(minus_sigma_onnx(), device="cpu"), failing=[3])
    image = random_image((2000, 64, 3), np.float32)
    with pytest.raises(OutOfMemoryError):
        denoise(image, model, sigma=0.25, tile_px=700, out=image)
    assert image.min() >= -0.25 and model.calls == 3


def test_the_model_of_a_small_batch_sees_each_level(rng):
    model = Model(minus_sigma_onnx(), device="cpu")
    clean = np.full((2, 64, 64, 3), 128.0)
    noisy = clean + rng.normal(0, 1, clean.shape) * np.array([5, 30])[:, None, None, None]
    pictures = list(np.clip(noisy, 0, 255).astype(np.uint8))
    levels = denoise_channels(pictures, "RGB", model)
    assert levels[0] * 255 == pytest.approx(5, rel=0.1)
    assert levels[1] * 255 == pytest.approx(30, rel=0.1)


def test_identity_of_a_stack(identity, rng):
    pictures = [rng.integers(0, 65535, (33, 41, 4), np.uint16) for _ in range(3)]
    before = [picture.copy() for picture in pictures]
    denoise_channels(pictures, "RGBA", identity)
    for picture, old in zip(pictures, before, strict=True):
        np.testing.assert_array_equal(picture, old)


def test_max_memory_chooses_smaller_tiles_or_refuses(identity):
    image = np.zeros((3000, 2000, 3), np.uint8)
    assert restore.tile_within(10**10, image, identity) == 1024
    assert 320 <= restore.tile_within(500 * 10**6, image, identity) < 1024
    assert restore.tile_within(10**10, image, identity, 128) == 128
    assert restore.tile_within(300 * 10**6, image[:48, :64], identity) == 1024
    with pytest.raises(ArgumentError, match=r"--max-memory 2\d\d or more"):
        restore.tile_within(10**8, image, identity)


def test_max_memory_leaves_room_between_the_halos():
    model = Model(tiny_onnx(stride=16, halo=96), device="cpu")
    image = np.zeros((3000, 2000, 3), np.uint8)
    sides = []
    for megabytes in range(200, 600, 10):
        with contextlib.suppress(ArgumentError):
            sides.append(restore.tile_within(megabytes * 10**6, image, model))
    assert min(sides) < 600
    assert tiles.plan(3000, min(sides), 96, levels.OVERLAP_PX, 16)


def test_progress_grows_to_the_whole(identity):
    calls = []
    image = random_image((300, 200, 3), np.uint8)
    denoise(image, identity, tile_px=112, progress=lambda *call: calls.append(call))
    assert calls == sorted(calls) and calls[-1] == (60_000, 60_000) and len(calls) > 3


@pytest.mark.parametrize(
    ("image", "options", "error"),
    [
        (np.zeros((4, 4, 2), np.uint8), {}, ShapeError),
        (np.zeros((4, 4, 3), np.int32), {}, ShapeError),
        (np.zeros(4, np.uint8), {}, ShapeError),
        (np.ma.zeros((4, 4)), {}, ShapeError),
        ("in.png", {}, ShapeError),
        (np.zeros((4, 4), np.uint8), {"strength": 2}, ArgumentError),
        (np.zeros((4, 4), np.uint8), {"chroma": 2}, ArgumentError),
        (np.zeros((4, 4), np.uint8), {"sigma": -1.0}, ArgumentError),
        (np.zeros((4, 4), np.uint8), {"out": np.zeros((4, 5), np.uint8)}, ShapeError),
        (np.zeros((4, 4), np.uint8), {"sigma": None}, ArgumentError),
        (np.zeros((4, 4), np.uint8), {"strength": "0.5"}, ArgumentError),
        (np.zeros((4, 4), np.uint8), {"tile_px": "x"}, ArgumentError),
        (np.full((4, 4), np.nan, np.float32), {}, InputError),
        (np.full((4, 4), 1e300), {}, InputError),
    ],
)
def test_bad_arguments_are_refused(identity, image, options, error):
    with pytest.raises(error):
        denoise(image, identity, **options)
