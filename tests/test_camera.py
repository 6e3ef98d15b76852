import pytest
import torch

from denoiser.training import camera


def taken_by(count=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = torch.rand(count, 7, generator=generator)[..., None, None]
    return camera.random_camera(
        draw[:, :4, 0, 0] + 0.01,
        red=1.9 + 0.5 * draw[:, 4:5],
        blue=1.5 + 0.4 * draw[:, 5:6],
        exposure=1 + 0.3 * draw[:, 6:7],
    )


def smooth_picture():
    y, x = torch.meshgrid(torch.linspace(0, 1, 40), torch.linspace(0, 1, 40), indexing="ij")
    return torch.stack([0.3 + 0.3 * x, 0.5 - 0.2 * y, 0.4 + 0.1 * x * y])[None]


def test_processing_undoes_unprocessing():
    image = smooth_picture().expand(8, -1, -1, -1)
    cameras = taken_by()
    light = cameras.unprocess(image)
    assert light.min() > 0 and light.max() < 0.6  # less than the picture: gains come after
    masks = camera.bayer(40, 40, 0, image.device)
    mosaic = (light * masks).sum(1, keepdim=True)
    found = cameras.process(torch.cat([mosaic, mosaic]), masks, "malvar")
    assert torch.equal(found[:8], found[8:])
    inner = found[:8, :, 4:-4, 4:-4]
    torch.testing.assert_close(inner, image[..., 4:-4, 4:-4], atol=5e-3, rtol=0)


def test_white_stays_white_and_black_black():
    cameras = taken_by()
    masks = camera.bayer(8, 8, 0, torch.device("cpu"))
    for value in (0.0, 1.0):
        image = torch.full((8, 3, 8, 8), value)
        mosaic = (cameras.unprocess(image) * masks).sum(1, keepdim=True)
        found = cameras.process(mosaic, masks, "bilinear")
        torch.testing.assert_close(found, image, atol=2e-3, rtol=0)


def test_a_grey_edge_has_no_colours_though_the_gains_differ():
    image = torch.full((8, 3, 24, 24), 0.2)
    image[..., 12:] = 0.6
    cameras, masks = taken_by(), camera.bayer(24, 24, 0, image.device)
    mosaic = (cameras.unprocess(image) * masks).sum(1, keepdim=True)
    found = cameras.process(mosaic, masks, "hamilton-adams")[..., 4:-4, 4:-4]
    assert (found.amax(1) - found.amin(1)).max() < 0.01


@pytest.mark.parametrize("phase", range(4))
@pytest.mark.parametrize("method", camera.DEMOSAICING)
def test_demosaicing_keeps_what_was_seen_and_finds_smooth_pictures(method, phase):
    image = smooth_picture()
    image = image - image.mean((2, 3), keepdim=True) + 0.5
    masks = camera.bayer(40, 40, phase, image.device)
    assert torch.equal(masks.sum(0), torch.ones(40, 40))
    assert masks[1].mean() == 0.5 and masks[0, phase // 2, phase % 2] == 1
    mosaic = (image * masks).sum(1, keepdim=True)
    found = camera.demosaic(mosaic, masks, method)
    torch.testing.assert_close(found * masks, image * masks)
    torch.testing.assert_close(found[..., 4:-4, 4:-4], image[..., 4:-4, 4:-4], atol=5e-3, rtol=0)


def test_demosaicing_along_an_edge_is_sharper_than_across():
    image = torch.zeros(1, 3, 20, 20)
    image[..., 10:] = 0.8  # a vertical edge
    masks = camera.bayer(20, 20, 0, image.device)
    mosaic = (image * masks).sum(1, keepdim=True)
    errors = {
        method: (camera.demosaic(mosaic, masks, method) - image)[..., 4:-4, 4:-4].square().mean()
        for method in camera.DEMOSAICING
    }
    assert errors["hamilton-adams"] < 1e-6
    assert errors["hamilton-adams"] < errors["malvar"] < errors["bilinear"]
