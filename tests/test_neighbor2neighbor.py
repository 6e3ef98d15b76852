import torch
from conftest import CPU

from denoiser.training import neighbor2neighbor
from denoiser.training.dataset import Crops
from denoiser.training.noises import Gaussian
from denoiser.training.recipe import Network, Recipe, Training
from denoiser.training.trainer import Trainer
from denoiser.training.validation import restore, to_batch


def test_sub_images_hold_neighbours_of_the_same_cell():
    rows, columns = torch.meshgrid(torch.arange(12.0), torch.arange(16.0), indexing="ij")
    places = torch.stack([rows, columns])[None].repeat(5, 1, 1, 1)
    choice = neighbor2neighbor.draw_pairs(places, torch.Generator().manual_seed(0))
    first, second = (neighbor2neighbor.subsample(places, pixel) for pixel in choice)
    assert first.shape == second.shape == (5, 2, 6, 8)
    cells = places[:, :, ::2, ::2]
    for image in (first, second):
        assert torch.equal((image // 2) * 2, cells)
    assert ((first - second).abs().sum(1) == 1).all()  # beside or below each other
    seen = {tuple(pair.tolist()) for pair in choice.flatten(1).T}
    assert seen == set(neighbor2neighbor.PAIRS)


def test_the_regulariser_vanishes_when_the_difference_is_the_expected_one():
    target, offset = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4)
    assert neighbor2neighbor.regulariser(target + offset, target, offset) < 1e-12
    off = neighbor2neighbor.regulariser(target + offset + 1, target, offset).item()
    assert abs(off - neighbor2neighbor.GAMMA) < 1e-5


def test_noise_is_learned_from_noisy_pictures_alone(photo):
    level = 30
    clean = to_batch(photo[:256, :256])
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    noisy = (clean + level / 255 * noise).clamp(0, 1)
    picture = (noisy[0].permute(1, 2, 0) * 255).round().byte().numpy()
    recipe = Recipe(
        "alone",
        Network(channels=(16, 32), blocks=1, noise_map=False),
        training=Training(
            steps=800, batch=4, crop_px=64, rate=3e-3, warmup_steps=20, loss="l2",
            supervision="neighbor2neighbor",
        ),
    )  # fmt: skip
    trainer = Trainer(recipe, CPU, "fp32")
    crops = Crops([picture], 64, CPU)
    for _ in range(recipe.training.steps):
        trainer.train_step(crops)
    restored = restore(trainer.averaged, noisy, torch.zeros_like(noisy[:, :1]), CPU)
    before, after = ((image - clean).square().mean() for image in (noisy, restored))
    assert after < before / 5, (before, after)  # 7 dB


def test_corruption_may_come_on_top_of_the_noise_that_is_there(photo):
    recipe = Recipe(
        "noisier",
        Network(channels=(8,), blocks=1, noise_map=False),
        (Gaussian(sigma=(5, 5)),),
        training=Training(steps=1, batch=2, crop_px=32, loss="l2", supervision="neighbor2neighbor"),
    )
    trainer = Trainer(recipe, CPU, "fp32")
    loss, penalty = trainer.train_step(Crops([photo], 32, CPU))
    assert loss > 0 and penalty == 0
