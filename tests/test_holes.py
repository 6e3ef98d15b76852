import dataclasses

import cv2
import numpy as np
import pytest
import torch
from conftest import CPU, TINY

from denoiser import filling
from denoiser.engine import Model
from denoiser.errors import RecipeError
from denoiser.training.autoencoder import ConvAutoencoder
from denoiser.training.dataset import Crops
from denoiser.training.export import export
from denoiser.training.filters import push_pull
from denoiser.training.holes import GUESS, KINDS, Holes, draw_holes, first_guess
from denoiser.training.objective import hole_distance
from denoiser.training.recipe import Network, Recipe, Training, load_recipe
from denoiser.training.trainer import Trainer

SHAPE = Network(channels=(8, 16), blocks=1, noise_map=False, hole=True)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("kind", KINDS)
def test_every_crop_gets_a_hole_of_a_fair_size(kind):
    holes = draw_holes(torch.zeros(64, 3, 96, 128), Holes(kinds=(kind,)), generator())
    assert holes.shape == (64, 1, 96, 128) and set(holes.unique().tolist()) == {0, 1}
    shares = holes.mean((1, 2, 3))
    assert shares.min() > 0 and shares.max() < 0.43  # the window is rounded to pixels
    assert len(shares.unique()) > 10
    box = round(0.1 * 96) * round(0.1 * 128) / (96 * 128)  # for crops that got none
    assert (shares == box).float().mean() < 0.5


def test_mirrored_holes_hold_the_others_and_are_symmetric():
    batch, thin = torch.zeros(32, 3, 64, 64), Holes(kinds=("scratches",))
    once = draw_holes(batch, thin, generator())
    mirrored = draw_holes(batch, dataclasses.replace(thin, mirrored=True), generator())
    whole = mirrored.mean((1, 2, 3)) < 0.3  # the others were cut to a window
    assert whole.sum() > 16 and (mirrored >= once)[whole].all()
    for axis in (2, 3):
        assert torch.equal(mirrored[whole], mirrored[whole].flip(axis))


def test_a_first_guess_is_made_from_what_filling_sees_at_half_the_resolution(photo):
    picture = photo[:64, :64].astype(np.float32) / 255
    image = torch.from_numpy(picture).permute(2, 0, 1)[None]
    hole = draw_holes(image, Holes(), generator())
    seen = []
    guess = first_guess(image, hole, lambda *coarse: seen.extend(coarse) or coarse[0])
    coarse, unknown = filling._halved(picture, hole[0, 0].numpy() > 0)
    coarse[unknown] = 0.5
    np.testing.assert_allclose(seen[0][0].permute(1, 2, 0), coarse, atol=1e-6)
    np.testing.assert_array_equal(seen[1][0, 0] > 0, unknown)
    fine = cv2.resize(coarse, (64, 64), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(guess[0].permute(1, 2, 0), fine, atol=1e-6)


def test_a_share_of_the_crops_holds_a_guess(photo):
    training = Training(batch=32, crop_px=64)
    trainer = Trainer(
        Recipe("tiny", SHAPE, holes=Holes(guessed=0.5), training=training), CPU, "fp32"
    )
    picture, guide, clean = trainer.examples.draw(Crops([photo], 64, CPU))
    guessed = guide.amax((1, 2, 3)) == GUESS
    assert filling.GUESS == GUESS and 5 < guessed.sum() < 27
    inside = (guide > 0).expand_as(clean)
    torch.testing.assert_close(picture[~inside], clean[~inside])
    assert (picture[~guessed][inside[~guessed]] == 0.5).all()
    assert (picture - clean)[guessed].abs().mean() < 0.05


def test_push_pull_keeps_what_is_known_and_is_smooth_between():
    ramp = torch.linspace(0, 1, 64).repeat(2, 3, 32, 1)
    known = torch.ones(2, 1, 32, 64)
    known[..., 20:30] = 0
    known[1] = 0
    known[1, :, :4, 5] = 1  # hardly anything
    smooth = push_pull(ramp * known, known, 32)
    inside = (known > 0).expand_as(ramp)
    torch.testing.assert_close(smooth[inside], ramp[inside])
    assert (smooth - ramp)[0].abs().max() < 0.08
    torch.testing.assert_close(smooth[1], torch.full_like(smooth[1], ramp[0, 0, 0, 5].item()))


def test_loss_counts_the_hole_only_and_every_crop_alike():
    target, hole = torch.zeros(2, 3, 8, 8), torch.zeros(2, 1, 8, 8, dtype=torch.bool)
    hole[0, :, 0, 0] = hole[1, :, :4] = True
    restored = torch.where(hole, 0.5, 7.0).expand_as(target)
    assert hole_distance(restored, target, hole, 0).item() == pytest.approx(0.5)
    flat = hole_distance(torch.full_like(target, 0.5), target, torch.ones_like(hole), 1)
    seam = hole_distance(restored, target, hole, 1)
    assert flat.item() == pytest.approx(0.5) and seam.item() > 1


def test_a_network_learns_to_fill_and_leaves_the_rest():
    recipe = dataclasses.replace(
        TINY,
        network=SHAPE,
        corruption=(),
        holes=Holes(("specks",), guessed=0.3),
        training=dataclasses.replace(
            TINY.training, steps=120, batch=8, crop_px=64, gradient_weight=0.1
        ),
    )
    trainer = Trainer(recipe, CPU, "fp32")
    stripes = np.tile(np.arange(64)[None, :, None] // 4 % 2 * 200, (64, 1, 3)).astype(np.uint8)
    crops = Crops([stripes], 64, CPU)
    losses = [trainer.train_step(crops)[0].item() for _ in range(120)]
    assert np.mean(losses[-20:]) < 0.7 * np.mean(losses[:20])
    image = torch.rand(2, 3, 32, 32)
    hole = draw_holes(image, Holes(), generator())
    with torch.no_grad():
        filled = trainer.averaged(image, hole)
        other = trainer.averaged(torch.where(hole > 0, 0.9, image), hole)
    kept = (hole == 0).expand_as(image)
    torch.testing.assert_close(filled[kept], image[kept], rtol=0, atol=0)
    torch.testing.assert_close(filled, other)  # what was in the hole does not matter


def test_export_of_a_network_that_fills(photo, tmp_path):
    recipe = dataclasses.replace(TINY, network=SHAPE)
    weights = ConvAutoencoder(SHAPE).state_dict()
    path = tmp_path / "fill.onnx"
    export(recipe, weights, path, [photo], name="fill", version="1", license="CC0-1.0")
    contract = Model(path, device="cpu").contract
    assert contract.task == "inpaint" and contract.inputs == ("image", "hole")


@pytest.mark.parametrize(
    "text",
    [
        "[network]\nhole = true",
        "[network]\nhole = true\nnoise_map = false\nskips = false",
        "[holes]\nkinds = ['craters']",
        "[holes]\nwidth_px = [0, 4]",
        "[holes]\nguessed = 2",
        "[training]\ngradient_weight = -1",
    ],
)
def test_impossible_recipes_are_refused(tmp_path, text):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(RecipeError):
        load_recipe(path)
