"""Scratches and dust: painted, learnt, found and filled."""

import dataclasses

import numpy as np
import pytest
import torch
from conftest import CPU, TINY, tiny_onnx

from denoiser.defects import MARGIN_PX, find_defects
from denoiser.engine import Model
from denoiser.errors import ArgumentError, RecipeError
from denoiser.training.autoencoder import ConvAutoencoder
from denoiser.training.corruption import Clip, Defects, corrupt
from denoiser.training.dataset import Crops
from denoiser.training.export import export
from denoiser.training.objective import Objective
from denoiser.training.recipe import Network, Recipe, Training
from denoiser.training.trainer import Trainer
from denoiser.training.validation import validate_defects

PAINTED = Defects(strength=(1, 1), blur_px=(0, 0))
SHAPE = Network(channels=(8, 16), blocks=1, noise_map=False, detects=True)


@pytest.fixture(scope="module")
def finder() -> Model:
    """Takes red for scratches and green for dust."""
    return Model(tiny_onnx(task="detect", inputs=("image",), outputs=("cover",)), device="cpu")


def test_where_defects_are_painted_is_what_is_to_be_found():
    grey = torch.full((64, 3, 96, 96), 0.5)
    cover, noisy, sigma = corrupt(grey, [PAINTED], torch.Generator().manual_seed(1))
    changed = (noisy != grey).any(1)
    assert torch.equal(cover[:, 2] > 0, changed) and sigma.max() == 0
    assert torch.equal(cover[:, :2].amax(1), cover[:, 2])
    assert set(cover.unique().tolist()) == {0, 1} and 0.005 < changed.float().mean() < 0.2
    assert ((noisy < 0.2) | (noisy == grey) | (noisy > 0.7)).all()
    for kind in (0, 1):
        assert 0.55 < (cover[:, kind].amax((1, 2)) > 0).float().mean() < 0.95


def test_a_network_learns_to_find_them(photo, tmp_path):
    training = Training(steps=150, batch=4, crop_px=32, rate=1e-2, warmup_steps=5)
    recipe = Recipe("tiny", SHAPE, (PAINTED, Clip()), training=training)
    trainer = Trainer(recipe, CPU, "fp32")
    flat = Crops([np.full((64, 64, 3), 128, np.uint8)], 32, CPU)  # the easiest of pictures
    losses = [float(trainer.train_step(flat)[0]) for _ in range(training.steps)]
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) / 2
    scores = validate_defects(
        trainer.model, [np.full((64, 64, 3), 128, np.uint8)] * 4, CPU, tmp_path, [PAINTED]
    )
    assert list(scores) == ["found_percent", "right_percent"]
    assert scores["found_percent"] > 50 and scores["right_percent"] > 50


def test_the_loss_is_the_cross_entropy():
    recipe = dataclasses.replace(TINY, network=SHAPE, corruption=(PAINTED,))
    network = ConvAutoencoder(SHAPE)
    image, target = torch.rand(2, 3, 16, 16), (torch.rand(2, 3, 16, 16) > 0.9).float()
    objective = Objective(network, recipe, torch.Generator())
    loss, penalty = objective(image, torch.zeros(2, 1, 16, 16), target)
    likely = network(image)
    assert likely.min() > 0 and likely.max() < 0.1  # hardly anywhere, to begin with
    entropy = -(target * likely.log() + (1 - target) * (1 - likely).log()).mean()
    torch.testing.assert_close(loss, entropy)
    assert penalty == 0


def test_it_is_exported_with_its_task(photo, tmp_path):
    recipe = dataclasses.replace(TINY, network=SHAPE, corruption=(PAINTED,))
    network, path = ConvAutoencoder(SHAPE), tmp_path / "finder.onnx"
    export(recipe, network.state_dict(), path, [photo], name="f", version="1", license="CC0-1.0")
    model = Model(path, device="cpu")
    assert model.contract.task == "detect" and model.contract.inputs == ("image",)
    image = torch.rand(1, 3, 32, 48)
    with torch.inference_mode():
        expected = network(image).numpy()
    np.testing.assert_allclose(model.run(image.numpy()), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"skips": False, "code_channels": 4}, "detects needs skips"),
        ({"noise_map": True}, "detects"),
    ],
)
def test_shapes_that_cannot_find_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(SHAPE, **change)
    with pytest.raises(RecipeError, match="corruption by defects"):
        Recipe("bad", SHAPE)


def test_what_is_sure_is_found_as_far_as_it_is_likely(finder):
    cover = np.zeros((120, 200, 3), np.uint8)
    cover[40:42, 20:60, [0, 2]] = 80  # a faint scratch, that is
    cover[40:42, 30, [0, 2]] = 220  # plain at one place
    cover[100, 20:60, [0, 2]] = 80  # nowhere
    cover[60:63, 100:103, 1:] = 255  # dust
    scratches, dust = (find_defects(cover, finder, (kind,)) for kind in ("scratches", "dust"))
    rows, columns = np.nonzero(scratches)
    assert (rows.min(), rows.max()) == (40 - MARGIN_PX, 41 + MARGIN_PX)
    assert (columns.min(), columns.max()) == (20 - MARGIN_PX, 59 + MARGIN_PX)
    assert dust[60:63, 100:103].all() and dust.sum() < 60
    np.testing.assert_array_equal(find_defects(cover, finder), scratches | dust)
    with pytest.raises(ArgumentError, match="cannot find hair"):
        find_defects(cover, finder, ("hair",))
    with pytest.raises(ArgumentError, match="cannot find nothing"):
        find_defects(cover, finder, ())
