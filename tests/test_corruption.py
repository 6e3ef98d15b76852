import io

import numpy as np
import pytest
import torch
from PIL import Image

from denoiser.training.corruption import (
    KINDS,
    Clip,
    Colour,
    Either,
    Grey,
    Jpeg,
    Masking,
    SaltAndPepper,
    Zoom,
    corrupt,
)
from denoiser.training.jpeg import compress
from denoiser.training.noises import (
    Camera,
    Chroma,
    Correlated,
    Gaussian,
    PoissonGaussian,
    Recorded,
    Speckle,
)
from denoiser.training.step import luma

GREY = torch.full((64, 3, 32, 32), 0.5)


def apply(clean, *steps, seed=0):
    return corrupt(clean, steps, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "step",
    [
        Gaussian(sigma=(5, 55)),
        Correlated(sigma=(5, 55), blur_px=(0, 0.6)),
        Chroma(sigma=(5, 55), blur_px=(0, 0.6)),
        Speckle(sigma=(0.05, 0.5)),
        PoissonGaussian(gain=(0.001, 0.05), sigma=(0, 20)),
    ],
    ids=lambda step: step.kind,
)
def test_noise_has_the_level_of_the_map_and_no_bias(step):
    clean, noisy, sigma = apply(GREY, step)
    assert torch.equal(clean, GREY)
    level = sigma[:, 0, 0, 0]
    torch.testing.assert_close((noisy - clean).std((1, 2, 3)), level, rtol=0.1, atol=0)
    error = (noisy - clean).mean((1, 2, 3)) / level
    assert error.abs().max() < 5 / np.sqrt(3 * 32 * 32)
    assert level.std() > 0.2 * level.mean()  # drawn per crop
    assert sigma.shape == (64, 1, 32, 32) and torch.equal(sigma[:, :, 0, 0], sigma[:, :, 9, 7])


def test_photon_noise_grows_with_the_light():
    ramp = torch.linspace(0, 1, 5)[None, None, None].expand(1, 3, 4000, 5)
    _, noisy, _ = apply(ramp, PoissonGaussian(gain=(0.01, 0.01), sigma=(5, 5)))
    expected = 0.01 * ramp[0, 0, 0] + (5 / 255) ** 2
    torch.testing.assert_close(noisy.var((0, 1, 2)), expected, rtol=0.05, atol=0)


def test_correlated_noise_is_shared_by_neighbours():
    blur = 0.8
    _, noisy, _ = apply(GREY, Correlated(sigma=(20, 20), blur_px=(blur, blur)))
    noise = (noisy - GREY) / (20 / 255)
    for lag in (1, 2, 3):  # a blurred white noise has the blur's autocorrelation
        expected = np.exp(-(lag**2) / (4 * blur**2))
        for direction in (noise, noise.transpose(2, 3)):
            found = (direction[..., lag:] * direction[..., :-lag]).mean().item()
            assert found == pytest.approx(expected, abs=0.02)
    assert (noise[:, 0] * noise[:, 1]).mean().abs() < 0.02  # but not by the channels


def test_recorded_noise_has_its_level_and_is_shared_by_neighbours():
    clean, noisy, sigma = apply(GREY, Recorded(sigma=(5, 55), scale=(0.6, 1.6)))
    noise = noisy - clean
    torch.testing.assert_close(noise.square().mean((1, 2, 3)).sqrt(), sigma[:, 0, 0, 0])
    unit = noise / sigma
    assert unit.mean().abs() < 0.05
    assert len(unit.mean((1, 2, 3)).unique()) == 64  # another place for every crop
    assert (unit[..., 1:] * unit[..., :-1]).mean() > 0.3


def test_recorded_noise_may_be_grey_and_grow_with_the_light():
    light = torch.tensor([0.1, 0.9]).repeat_interleave(16).expand(64, 3, 32, 32)
    noise = apply(light, Recorded(sigma=(5, 5), chroma=(0, 0), bend=(1, 1)))[1] - light
    torch.testing.assert_close(noise[:, 0], noise[:, 2])
    dark, bright = (half.square().mean().sqrt().item() for half in noise.chunk(2, 3))
    assert bright / dark == pytest.approx(3, rel=0.1)  # (0.3 + 0.9) / (0.3 + 0.1)


def test_noises_add_up():
    clean, noisy, sigma = apply(GREY, Gaussian(sigma=(30, 30)), Gaussian(sigma=(40, 40)))
    assert sigma.mean().item() * 255 == pytest.approx(50, abs=1e-3)
    assert (noisy - clean).std().item() * 255 == pytest.approx(50, rel=0.01)


def test_salt_and_pepper_replaces_whole_pixels_half_white_half_black():
    _, noisy, sigma = apply(GREY, SaltAndPepper(density=(0.2, 0.2)))
    assert torch.equal(noisy.amin(1), noisy.amax(1)) and sigma.max() == 0
    for value in (0.0, 1.0):
        assert (noisy == value).float().mean().item() == pytest.approx(0.1, rel=0.1)
    assert (noisy == 0.5).float().mean().item() == pytest.approx(0.8, rel=0.02)


def test_masking_blackens_its_share_of_the_pixels():
    _, noisy, _ = apply(GREY, Masking(density=(0.3, 0.3)))
    assert torch.equal(noisy.amin(1), noisy.amax(1))
    assert (noisy == 0).float().mean().item() == pytest.approx(0.3, rel=0.05)


def test_grey_crops_share_noise_and_clipped_crops_are_clipped():
    clean = torch.rand(8, 3, 16, 16)
    grey, noisy, sigma = apply(clean, Gaussian(sigma=(60, 60)), Clip(), Grey())
    for batch in (grey, noisy):
        assert torch.equal(batch[:, 0], batch[:, 1]) and torch.equal(batch[:, 0], batch[:, 2])
    assert noisy.min() == 0 and noisy.max() == 1 and torch.equal(grey[:, 0], clean[:, 1])
    assert sigma.max().item() == pytest.approx(60 / 255, rel=0.15)


def test_a_step_is_done_to_its_share_of_the_crops():
    clean = GREY.repeat(8, 1, 1, 1)
    _, noisy, sigma = apply(clean, Gaussian(sigma=(10, 20), share=0.25))
    touched = (noisy != clean).flatten(1).any(1)
    assert touched.float().mean().item() == pytest.approx(0.25, abs=0.06)
    assert torch.equal(touched, sigma[:, 0, 0, 0] > 0)


def test_every_kind_leaves_its_input_alone_and_follows_the_seed():
    options = {
        "blur_px": (0, 1),
        "sigma": (1, 5),
        "gain": (0.01, 0.02),
        "density": (0.1, 0.2),
        "quality": (20, 90),
        "factor": (1.5, 2),
        "vivid": (0.5, 2.5),
        "steps": (Clip(), Speckle(sigma=(0.1, 0.2))),
        "strength": (0.3, 0.9),
    }
    clean = torch.rand(2, 3, 24, 40)
    before = clean.clone()
    for kind in KINDS.values():
        names = kind.__dataclass_fields__
        step = kind(**{name: value for name, value in options.items() if name in names})
        results = [apply(clean, step, Gaussian(sigma=(1, 1)), seed=seed)[1] for seed in (3, 3, 4)]
        assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])
        assert torch.equal(clean, before) and results[0].shape == clean.shape


@pytest.mark.parametrize("quality", [10, 36, 50, 90])
def test_jpeg_is_what_libjpeg_makes(photo, quality):
    picture = photo[:128, :160]
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality, subsampling=2)
    expected = np.asarray(Image.open(file), np.float64)
    batch = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 255
    found = compress(batch, torch.tensor(float(quality)).reshape(1, 1, 1, 1))
    found = found[0].permute(1, 2, 0).double().numpy() * 255
    damage = np.stack([(expected - picture).ravel(), (found - picture).ravel()])
    strength = np.sqrt(np.mean(damage**2, 1))
    assert strength[1] == pytest.approx(strength[0], rel=0.05)
    assert np.corrcoef(damage)[0, 1] > 0.85  # libjpeg also rounds YCbCr to whole numbers


def test_jpeg_blocks_start_where_they_are_told(photo):
    batch = torch.from_numpy(photo[200:264, 200:264].copy()).permute(2, 0, 1)[None].float() / 255
    quality = torch.full((1, 1, 1, 1), 10.0)
    step = compress(batch, quality, 3, 5)
    across = (step[..., 1:] - step[..., :-1]).abs().mean((0, 1, 2))  # largest at block borders
    borders = across[2::8]
    assert borders.mean() > 1.3 * across.mean()
    assert compress(batch[..., :33, :47], quality, 15, 1).shape == (1, 3, 33, 47)


def test_jpeg_steps_differ_from_batch_to_batch(photo):
    batch = torch.from_numpy(photo[200:264, 200:264].copy()).permute(2, 0, 1)[None].float() / 255
    results = [apply(batch, Jpeg(quality=(20, 20)), seed=seed)[1] for seed in range(3)]
    assert not torch.equal(results[0], results[1])


def test_chroma_noise_leaves_the_luma_alone():
    _, noisy, _ = apply(GREY, Chroma(sigma=(20, 20), blur_px=(0.5, 2)))
    torch.testing.assert_close(luma(noisy), luma(GREY), atol=1e-6, rtol=0)


def test_camera_noise_grows_with_the_gain_and_is_shared_by_neighbours():
    noises = []
    for shot in (1e-4, 1e-2):
        clean, noisy, sigma = apply(GREY, Camera(shot=(shot, shot)))
        assert torch.equal(clean, GREY)
        noise = noisy - clean
        torch.testing.assert_close(noise.square().mean((1, 2, 3)).sqrt(), sigma[:, 0, 0, 0])
        assert noise.mean().abs() < 0.02 * noise.std()  # though the tone curve bends
        noises.append(noise)
    assert 5 < noises[1].std() / noises[0].std() < 15  # photon noise alone: 10
    centred = noises[0] - noises[0].mean((2, 3), keepdim=True)
    shared = (centred[..., 1:] * centred[..., :-1]).mean() / centred.square().mean()
    assert 0.1 < shared < 0.6  # by demosaicing


def test_what_cameras_do_about_noise():
    def parts(**options):
        _, noisy, _ = apply(GREY, Camera(shot=(1e-3, 1e-3), **options))
        noise = noisy - GREY
        return luma(noise).std().item(), (noise - luma(noise)).std().item()

    grey, colour = parts()
    assert parts(chroma_blur_px=(2, 2))[1] < 0.5 * colour
    assert parts(chroma_blur_px=(2, 2))[0] == pytest.approx(grey, rel=1e-3)
    assert parts(luma_blur_px=(1, 1))[0] < 0.7 * grey
    assert parts(sharpen=(1, 1))[0] > 1.2 * grey
    coarse = {"coarse_px": (2, 2)}
    assert parts(**coarse) == pytest.approx((grey, colour), rel=1e-3)
    assert parts(**coarse, luma_left=(0, 0))[0] < 0.4 * grey
    assert parts(**coarse, luma_left=(0, 0))[1] == pytest.approx(colour, rel=1e-3)
    assert parts(**coarse, chroma_left=(0.2, 0.2))[1] < 0.7 * colour
    assert parts(chroma=(0.5, 0.5)) == pytest.approx((grey, colour / 2), rel=1e-3)
    assert parts(**coarse, chroma=(0.5, 0.5)) == pytest.approx((grey, colour / 2), rel=1e-3)


def test_denoising_in_cameras_leaves_coarse_noise():
    def shared(apart_px, **options):
        _, noisy, _ = apply(GREY, Camera(shot=(1e-3, 1e-3), **options))
        noise = luma(noisy - GREY)
        noise = noise - noise.mean()
        product = noise[..., apart_px:] * noise[..., :-apart_px]
        return (product.mean() / noise.square().mean()).item()

    left = {"coarse_px": (2, 2), "luma_left": (0.2, 0.2)}
    assert shared(3) < 0.1 < 0.25 < shared(3, **left)


def test_zooming_enlarges_clean_and_noisy_alike():
    ramp = torch.linspace(0, 1, 32).expand(8, 3, 32, 32).contiguous()
    clean, noisy, sigma = apply(ramp, Gaussian(sigma=(20, 20)), Zoom(factor=(2, 2)))
    inner = clean[..., 4:-4]
    slope = inner[..., 1:] - inner[..., :-1]
    assert slope.mean().item() == pytest.approx(1 / 62, rel=0.02) and slope.min() > 0.01
    noise = noisy - clean
    torch.testing.assert_close(
        noise.square().mean((1, 2, 3)).sqrt(), sigma[:, 0, 0, 0], rtol=0.3, atol=0
    )
    assert sigma.max() < 20 / 255
    same, _, _ = apply(ramp, Zoom(factor=(1, 1)))
    torch.testing.assert_close(same, ramp, atol=1e-5, rtol=0)


def test_crops_made_smaller_have_no_aliases_and_mirrored_edges():
    stripes = (torch.arange(64) % 2).float().expand(8, 3, 64, 64).contiguous()
    wide = (torch.arange(64) // 16 % 2).float().expand(8, 3, 64, 64).contiguous()
    grey, noisy, sigma = apply(stripes, Gaussian(sigma=(20, 20)), Zoom(factor=(0.5, 0.5)))
    assert (grey - 0.5).abs().mean() < 0.1  # plain sampling leaves 0 or 1
    assert sigma.max() < 15 / 255
    torch.testing.assert_close(
        (noisy - grey).square().mean((1, 2, 3)).sqrt(), sigma[:, 0, 0, 0], rtol=0.2, atol=0
    )
    smaller, _, _ = apply(wide, Zoom(factor=(0.5, 0.5)))
    assert smaller.amax((1, 2, 3)).min() > 0.9 and smaller.amin((1, 2, 3)).max() < 0.1
    changes = ((smaller[:, 0, 32, 1:] > 0.5) != (smaller[:, 0, 32, :-1] > 0.5)).sum(1)
    assert ((changes >= 5) & (changes <= 7)).all()  # twice the 3 of before, or one beside it
    same, _, _ = apply(wide, Zoom(factor=(0.25, 1), share=0), Zoom(factor=(1, 1)))
    torch.testing.assert_close(same, wide, atol=1e-5, rtol=0)


def test_other_colours_keep_the_noise_and_the_mean():
    clean = 0.4 + 0.2 * torch.rand(64, 3, 8, 8)
    other, noisy, sigma = apply(clean, Gaussian(sigma=(10, 10)), Colour(vivid=(2, 2)))
    torch.testing.assert_close(other.mean(1), clean.mean(1))
    spread = (other - other.mean(1, keepdim=True)).square().sum(1)
    torch.testing.assert_close(spread, 4 * (clean - clean.mean(1, keepdim=True)).square().sum(1))
    _, plain, _ = apply(clean, Gaussian(sigma=(10, 10)))
    torch.testing.assert_close((noisy - other).sum(1), (plain - clean).sum(1), atol=1e-5, rtol=0)
    assert sigma.min() == sigma.max() == torch.tensor(10 / 255)
    red = torch.tensor([0.6, 0.5, 0.4])[:, None, None].expand(512, 3, 4, 4).contiguous()
    turned, _, _ = apply(red, Colour(vivid=(1, 1)))
    places = turned[:, :, 0, 0].argmax(1).bincount()
    assert len(places) == 3 and places.min() > 120
    grey, _, _ = apply(clean, Colour(vivid=(0, 0)))
    torch.testing.assert_close(grey[:, 0], grey[:, 2])
    vivid, _, _ = apply(torch.rand(8, 3, 8, 8), Colour(vivid=(4, 4)))
    assert vivid.min() == 0 and vivid.max() == 1


def test_either_divides_the_batch():
    loud, quiet = Gaussian(sigma=(50, 50)), (Gaussian(sigma=(3, 3)), Gaussian(sigma=(4, 4)))
    step = Either(part=0.25, steps=(loud,), otherwise=quiet)
    _, noisy, sigma = apply(GREY, step)
    expected = torch.tensor([50.0] * 16 + [5.0] * 48) / 255
    torch.testing.assert_close(sigma[:, 0, 0, 0], expected)
    torch.testing.assert_close((noisy - GREY).std((1, 2, 3)), expected, rtol=0.1, atol=0)
    assert step.levels == (5, 50)
    half = Either(part=0.5, otherwise=(loud,))
    ways = [torch.equal(apply(GREY[:1], half, seed=seed)[1], GREY[:1]) for seed in range(40)]
    assert 8 < sum(ways) < 32  # one crop goes either way
