import dataclasses

import numpy as np
import pytest
import torch
from conftest import CPU, TINY
from PIL import Image

from denoiser.training.autoencoder import ConvAutoencoder
from denoiser.training.corruption import Masking
from denoiser.training.recipe import Network
from denoiser.training.validation import (
    COLUMNS,
    VALIDATION_SIGMAS,
    Log,
    centre,
    draw_curves,
    show,
    validate,
    validate_holes,
)


def test_a_resumed_log_drops_the_lines_that_will_be_written_again(tmp_path):
    log = Log(tmp_path / "log.csv", 0)
    for step in (2, 4, 6):
        log.write(step, {"megapixels": step / 10, "loss": 1 / step, "penalty": 0})
    log = Log(tmp_path / "log.csv", 4)
    log.write(6, {"megapixels": 0.6, "loss": 0.5, "psnr_50_db": 10})
    points = log.read()
    assert points["step"] == [(0.2, 2), (0.4, 4), (0.6, 6)]
    assert points["psnr_50_db"] == [(0.6, 10)] and set(points) == set(COLUMNS)


def test_a_line_of_the_log_that_was_cut_short_is_dropped(tmp_path):
    log = Log(tmp_path / "log.csv", 0)
    log.write(2, {"megapixels": 1, "loss": 3})
    with (tmp_path / "log.csv").open("a") as file:
        file.write("4,0.")
    log = Log(tmp_path / "log.csv", 6)
    assert log.last == 2 and log.read()["loss"] == [(1, 3)]


def test_curves_are_drawn_from_the_log(tmp_path):
    log = Log(tmp_path / "log.csv", 0)
    draw_curves(log, tmp_path / "empty.png")
    for step in range(1, 50):
        values = {"megapixels": step / 10, "loss": 1 / step, "penalty": 0.1}
        log.write(
            step, values | {f"psnr_{level}_db": 20 + step / 10 for level in VALIDATION_SIGMAS}
        )
    draw_curves(log, tmp_path / "curves.png")
    pictures = [np.asarray(Image.open(tmp_path / name)) for name in ("empty.png", "curves.png")]
    assert pictures[0].shape == pictures[1].shape == (400, 1000, 4)
    coloured = [np.ptp(picture[..., :3].astype(int), axis=2) > 60 for picture in pictures]
    assert coloured[0].sum() == 0 < coloured[1][:, :500].sum() and coloured[1][:, 500:].any()


def test_validation_measures_what_is_restored(photo, tmp_path):
    network = ConvAutoencoder(TINY.network)
    with torch.no_grad():
        network.tail.weight.zero_(), network.tail.bias.zero_()  # restored = noisy
    scores = list(validate(network, [photo, photo[:100, :90]], CPU, tmp_path).values())
    assert scores[0] > 100  # nothing lost
    for level, score in zip((5, 15, 25, 50), scores[1:], strict=True):
        assert score == pytest.approx(20 * np.log10(255 / level), abs=1.5)  # clipping helps
    with Image.open(tmp_path / "validation.png") as sheet:
        assert sheet.size == (10 * 256, 2 * 256)
        assert sheet.getpixel((88, 256 + 88)) == (255, 255, 255)  # beside the smaller picture
    assert len(validate(network, [photo[:8, :8]] * 9, CPU, tmp_path)) == 5
    with Image.open(tmp_path / "validation.png") as sheet:
        assert sheet.size == (10 * 8, 8 * 8)  # eight rows are enough
    show(network, [photo], CPU, tmp_path)
    with Image.open(tmp_path / "validation.png") as sheet:
        assert sheet.size == (2 * 256, 256)


@pytest.mark.parametrize(("stride", "side"), [(8, 256), (24, 240), (300, 300)])
def test_centres_fit_the_stride(photo, stride, side):
    assert centre(photo, stride).shape == (side, side, 3)


def test_validation_measures_the_recipes_own_corruption(photo, tmp_path):
    network = ConvAutoencoder(dataclasses.replace(TINY.network, estimator=4))
    with torch.no_grad():
        network.tail.weight.zero_(), network.tail.bias.zero_()  # restored = corrupted
    told = []
    restore = network.restore

    def asked(image, guide, *, pooled):
        told.append((*guide.unique().tolist(), pooled))
        return restore(image, guide, pooled=pooled)

    network.restore = asked
    pictures = [photo[:64, :64], photo[64:144, :96]]
    scores = validate(network, pictures, CPU, tmp_path, (Masking(density=(1, 1)),))
    assert list(scores) == [*(f"psnr_{level}_db" for level in VALIDATION_SIGMAS), "psnr_own_db"]
    assert set(told) == {(-1.0, True)}  # it has to find out, as with the engine
    black = [np.mean((centre(picture, 8, 64) / 255) ** 2) for picture in pictures]
    expected = np.mean([-10 * np.log10(value) for value in black])
    assert scores["psnr_own_db"] == pytest.approx(expected, abs=0.01)  # nothing is left of it
    with Image.open(tmp_path / "validation.png") as sheet:
        assert sheet.size == (12 * 80, 2 * 80)


def test_holes_are_measured_inside(photo, tmp_path):
    shape = Network(channels=(8, 16), blocks=1, noise_map=False, hole=True)
    network = ConvAutoencoder(shape)
    with torch.no_grad():
        network.tail.weight.zero_(), network.tail.bias.zero_()  # filled = smooth
    scores = validate_holes(network, [photo, photo[:128, :128]], CPU, tmp_path)
    assert list(scores) == ["psnr_thin_db", "psnr_medium_db", "psnr_large_db"]
    assert scores["psnr_thin_db"] > scores["psnr_large_db"] > 10
    with Image.open(tmp_path / "validation.png") as sheet:
        assert sheet.size == (7 * 256, 2 * 256)
