import dataclasses
import itertools
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SAMPLE, SHIPPED
from PIL import Image

from denoiser import catalog
from denoiser.engine import Model
from denoiser.errors import InputError, ModelError, RecipeError, TrainingError
from denoiser.training import export as export_module
from denoiser.training.autoencoder import ConvAutoencoder
from denoiser.training.corruption import corrupt
from denoiser.training.dataset import Crops, load_pictures
from denoiser.training.export import export, measure_halo, read_weights, to_onnx
from denoiser.training.recipe import Corruption, Network, Recipe, Training, load_recipe
from denoiser.training.trainer import Trainer, learning_rate, load_checkpoint, loss_of

CPU = torch.device("cpu")
TINY = Recipe(
    "tiny",
    Network(channels=(8, 16), blocks=1),
    Corruption(sigma=(10, 50)),
    Training(steps=6, batch=2, crop_px=32, warmup_steps=2, rate=2e-3),
)


@pytest.fixture
def crops(photo):
    return Crops([photo], 32, CPU)


def make(**changes):
    return dataclasses.replace(TINY, training=dataclasses.replace(TINY.training, **changes))


def random_weights():
    weights = ConvAutoencoder(TINY.network).state_dict()
    generator = torch.Generator().manual_seed(0)
    return {k: v + 0.02 * torch.randn(v.shape, generator=generator) for k, v in weights.items()}


def flat(weights):
    return torch.cat([value.flatten() for value in weights.values()])


@pytest.mark.parametrize("path", sorted((SHIPPED / "scripts" / "recipes").glob("*.toml")))
def test_shipped_recipes_load_and_survive_json(path):
    recipe = load_recipe(path)
    assert recipe.name == path.stem and Recipe.from_json(recipe.to_json()) == recipe
    ConvAutoencoder(recipe.network)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[network]\nwidth = 3", "unknown key 'width'"),
        ("[corruption]\nsigma = [50, 10]", "sigma"),
        ("[training]\nloss = 'l3'", "loss"),
        ("[training]\ncrop_px = 97", "stride 8"),
        ("[network]\nchannels = []", "channels"),
        ("[network]\nchannels = [8.0, 16]", "whole numbers"),
        ("network = 3", "section"),
        ("[training]\nrate = -1", "rate"),
        ("this is no toml", "no TOML"),
    ],
)
def test_bad_recipes_are_refused_with_the_reason(text, words, tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=words):
        load_recipe(path)


def test_crops_are_mirrored_pieces_of_the_pictures():
    """Each pixel of the pictures is unique, so its place can be read off a crop."""
    small = np.arange(20 * 30, dtype=np.uint16).reshape(20, 30)
    large = np.arange(20 * 30, 20 * 30 + 40 * 25, dtype=np.uint16).reshape(40, 25)
    pictures = [np.stack([p >> 8, p & 255, 0 * p], 2).astype(np.uint8) for p in (small, large)]
    crops = Crops(pictures, 8, CPU).sample(400, torch.Generator().manual_seed(0))
    assert crops.shape == (400, 3, 8, 8) and crops.dtype == torch.float32
    values = (crops[:, 0] * 255).round().int() * 256 + (crops[:, 1] * 255).round().int()
    seen = set()
    for value in values.numpy():
        source, offset, width = (small, 0, 30) if value[0, 0] < 600 else (large, 600, 25)
        rows, columns = (value - offset) // width, (value - offset) % width
        y, x = rows.min(), columns.min()
        original = source[y : y + 8, x : x + 8]
        orders = [
            (flip_y, flip_x, transposed)
            for flip_y, flip_x, transposed in itertools.product((1, -1), (1, -1), (False, True))
            if np.array_equal(
                original[::flip_y, ::flip_x].T if transposed else original[::flip_y, ::flip_x],
                value,
            )
        ]
        assert len(orders) == 1
        seen.add((source.shape, orders[0]))
    assert len(seen) == 16  # both pictures in all eight orientations


def test_pictures_come_from_folders_and_tars_and_bad_ones_are_named(tmp_path):
    nested = tmp_path / "a" / "b"
    nested.mkdir(parents=True)
    Image.new("L", (40, 50), 7).save(nested / "grey.png")
    Image.new("RGB", (60, 50)).save(tmp_path / "colour.jpg")
    with tarfile.open(tmp_path / "more.tar", "w") as shard:
        shard.add(nested / "grey.png", "x.png")
    pictures = load_pictures(tmp_path, 32)
    assert [picture.shape for picture in pictures] == [(50, 40, 3), (50, 60, 3), (50, 40, 3)]
    (tmp_path / "bad.png").write_bytes(b"?")
    (tmp_path / "._colour.jpg").write_bytes(b"resource fork")
    lines = []
    assert len(load_pictures(tmp_path, 48, lines.append)) == 1
    assert len(lines) == 3 and "bad.png" in lines[1] and "grey.png is smaller" in lines[0]
    (tmp_path / "broken.tar").write_bytes(b"?" * 600)
    with pytest.raises(InputError, match=r"broken\.tar"):
        load_pictures(tmp_path, 32)
    assert len(load_pictures(tmp_path / "more.tar", 32)) == 1
    with pytest.raises(InputError, match="no pictures"):
        load_pictures(SHIPPED / "scripts", 32)


def test_noise_has_the_level_of_the_map():
    clean = torch.full((64, 3, 32, 32), 0.5)
    generator = torch.Generator().manual_seed(0)
    clean, noisy, sigma = corrupt(clean, Corruption(sigma=(5, 55)), generator)
    found = (noisy - clean).std((1, 2, 3))
    torch.testing.assert_close(found, sigma[:, 0, 0, 0], rtol=0.1, atol=0)
    assert sigma.min() >= 5 / 255 and sigma.max() <= 55 / 255 and sigma.std() > 10 / 255


def test_grey_crops_share_noise_and_clipped_crops_are_clipped():
    clean = torch.rand(8, 3, 16, 16)
    corruption = Corruption(sigma=(60, 60), clip_share=1, grey_share=1)
    grey, noisy, _ = corrupt(clean, corruption, torch.Generator().manual_seed(0))
    for batch in (grey, noisy):
        assert torch.equal(batch[:, 0], batch[:, 1]) and torch.equal(batch[:, 0], batch[:, 2])
    assert noisy.min() == 0 and noisy.max() == 1


def test_network_keeps_the_size_and_codes_at_the_stride():
    network = ConvAutoencoder(TINY.network)
    image, sigma = torch.rand(2, 3, 16, 24), torch.rand(2, 1, 16, 24)
    assert network(image, sigma).shape == image.shape
    code, skips = network.encode(image, sigma)
    assert code.shape == (2, 16, 16 // network.stride, 24 // network.stride) and len(skips) == 1


def test_schedule_warms_up_and_ends_at_zero():
    training = Training(steps=100, warmup_steps=10, rate=1.0)
    rates = [learning_rate(step, training) for step in range(101)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == 1 and rates[100] == 0
    assert all(late <= early for early, late in itertools.pairwise(rates[10:]))


def test_losses():
    difference = torch.tensor([0.0, 0.5, -1.0])
    assert loss_of(difference, torch.zeros(3), "l1") == pytest.approx(0.5)
    charbonnier = loss_of(difference, torch.zeros(3), "charbonnier").item()
    assert charbonnier == pytest.approx(np.sqrt(np.array([0, 0.25, 1]) + 1e-6).mean(), abs=1e-6)


def test_resumed_training_is_bit_exact(crops, photo, tmp_path):
    straight = Trainer(TINY, CPU, "fp32")
    straight.run(crops, [photo], tmp_path / "a", log_every=2)

    first = Trainer(TINY, CPU, "fp32")
    for _ in range(3):
        first.train_step(crops, first.model)
    first.save(tmp_path / "checkpoint.pt")
    second = Trainer(TINY, CPU, "fp32")
    second.resume(tmp_path / "checkpoint.pt")
    assert second.step == 3
    second.run(crops, [photo], tmp_path / "b", log_every=2)

    assert torch.equal(flat(straight.model.state_dict()), flat(second.model.state_dict()))
    assert torch.equal(flat(straight.ema.state_dict()), flat(second.ema.state_dict()))
    logs = [(tmp_path / run / "log.csv").read_text().splitlines() for run in "ab"]
    assert logs[0][0] == logs[1][0] and len(logs[0]) == 4
    assert logs[0][-1].split(",")[-3:] == logs[1][-1].split(",")[-3:]  # validation PSNR
    with Image.open(tmp_path / "a" / "validation.png") as sheet:
        assert sheet.size == (7 * 256, 256)


def test_an_interrupt_saves_first(crops, tmp_path, monkeypatch):
    trainer = Trainer(TINY, CPU, "fp32")
    step = trainer.train_step

    def interrupted(*arguments):
        if trainer.step == 4:
            raise KeyboardInterrupt
        return step(*arguments)

    monkeypatch.setattr(trainer, "train_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trainer.run(crops, [], tmp_path)
    assert load_checkpoint(tmp_path / "checkpoint.pt")["step"] == 4


def test_an_interrupt_does_not_save_a_diverged_run(crops, tmp_path, monkeypatch):
    trainer = Trainer(TINY, CPU, "fp32")
    losses = iter([0.1, 0.1, 5000.0])

    def step(*_):
        trainer.step += 1
        loss = next(losses, None)
        if loss is None:
            raise KeyboardInterrupt
        return torch.tensor(loss)

    monkeypatch.setattr(trainer, "train_step", step)
    with pytest.raises(KeyboardInterrupt):
        trainer.run(crops, [], tmp_path, log_every=2)
    assert not (tmp_path / "checkpoint.pt").exists()


def test_divergence_stops_and_keeps_the_checkpoint(crops, tmp_path):
    trainer = Trainer(make(rate=1e30, warmup_steps=0, steps=20), CPU, "fp32")
    trainer.save(tmp_path / "checkpoint.pt")
    with pytest.raises(TrainingError, match="loss"):
        trainer.run(crops, [], tmp_path, log_every=1)
    assert load_checkpoint(tmp_path / "checkpoint.pt")["step"] == 0


def test_foreign_checkpoints_are_refused(tmp_path):
    other = Trainer(make(rate=1e-4), CPU, "fp32")
    other.save(tmp_path / "checkpoint.pt")
    with pytest.raises(RecipeError, match="another recipe"):
        Trainer(TINY, CPU).resume(tmp_path / "checkpoint.pt")
    (tmp_path / "text.pt").write_text("?")
    with pytest.raises(InputError, match=r"text\.pt"):
        load_checkpoint(tmp_path / "text.pt")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_short_training_already_removes_noise(crops, photo, tmp_path, precision):
    trainer = Trainer(make(steps=200, batch=4, rate=1e-2), CPU, precision)
    trainer.run(crops, [photo], tmp_path, log_every=50)
    rows = (tmp_path / "log.csv").read_text().splitlines()
    losses = [float(row.split(",")[2]) for row in rows[1:]]
    psnr_50 = float(rows[-1].split(",")[-1])
    assert losses[-1] < losses[0] * 0.7
    assert psnr_50 > 17  # the noisy picture has 14.2


def export_tiny(target, photo, weights=None):
    weights = weights or random_weights()
    return export(TINY, weights, target, [photo], name="tiny", version="1", license="CC0-1.0")


def test_export_keeps_the_contract_and_can_be_read_back(photo, tmp_path):
    path, weights = tmp_path / "tiny.onnx", random_weights()
    facts = export_tiny(path, photo, weights)
    model = Model(path, device="cpu")
    assert model.contract.stride == facts["stride"] == 4
    assert model.contract.halo == facts["halo"] and facts["sha256"] == catalog.sha256_of(path)
    assert model.contract.sigma_range == pytest.approx((10 / 255, 50 / 255), abs=1e-6)
    recipe, back = read_weights(path)
    assert recipe == TINY and torch.equal(flat(back), flat(weights))
    trainer = Trainer(TINY, CPU)
    trainer.load_weights(back)
    assert torch.equal(flat(trainer.model.state_dict()), flat(weights))


def test_export_refuses_a_model_that_differs(photo, tmp_path, monkeypatch):
    def other(network, metadata):
        changed = ConvAutoencoder(TINY.network)
        changed.load_state_dict({k: v * 1.01 for k, v in network.state_dict().items()})
        return to_onnx(changed, metadata)

    monkeypatch.setattr(export_module, "to_onnx", other)
    with pytest.raises(ModelError, match="differ"):
        export_tiny(tmp_path / "tiny.onnx", photo)
    assert list(tmp_path.iterdir()) == []


def test_halo_is_what_the_network_sees(photo):
    """A network of one 3x3 convolution each way on 2x2 blocks sees four pixels, then nothing."""
    network = ConvAutoencoder(Network(channels=(8,), blocks=1))  # blocks start as the identity
    with torch.no_grad():
        network.tail.weight.mul_(10)
    assert measure_halo(network.eval(), [photo]) == 4


def test_released_model_holds_its_trained_state():
    path = catalog.find()
    recipe, weights = read_weights(path)
    network = ConvAutoencoder(recipe.network)
    network.load_state_dict(weights)
    image, sigma = torch.rand(1, 3, 64, 96), torch.full((1, 1, 64, 96), 0.1)
    with torch.inference_mode():
        expected = network(image, sigma).numpy()
    found = Model(path, device="cpu").run(image.numpy(), sigma.numpy())
    np.testing.assert_allclose(found, expected, atol=1e-4)


def script(name, *arguments):
    path = SHIPPED / "scripts" / name
    done = subprocess.run([sys.executable, path, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.slow
def test_train_export_denoise_and_evaluate_from_the_command_line(tmp_path: Path):
    recipe = tmp_path / "mine.toml"
    recipe.write_text(
        "[network]\nchannels = [8, 16]\nblocks = 1\n"
        "[training]\nsteps = 4\nbatch = 2\ncrop_px = 32\n"
    )
    images, run = tmp_path / "images", tmp_path / "run"
    images.mkdir()
    with Image.open(SAMPLE / "clean.png") as clean:
        clean.crop((0, 0, 300, 260)).save(images / "a.jpg")
    common = ["--recipe", recipe, "--images", images, "--validation", images, "--out", run]
    script("train.py", *common)
    script("train.py", *common, "--resume")
    model = tmp_path / "exported.onnx"
    script("export.py", run / "checkpoint.pt", model, "--images", images)
    assert catalog.read_card(model.with_suffix(".toml")).sha256 == catalog.sha256_of(model)
    script("train.py", *common[:-1], tmp_path / "run2", "--init", model)
    denoise = [sys.executable, "-c", "from denoiser.cli import denoise_main; denoise_main()"]
    subprocess.run([*denoise, images / "a.jpg", tmp_path / "o.jpg", "-m", model], check=True)
    done = script(
        "evaluate.py", "--images", images, "--model", model, "--peer", "nlm", "--sigma", "25",
        "--out", tmp_path / "result",
    )  # fmt: skip
    assert "| sigma 25 (1 pictures) |" in done.stdout
    assert (tmp_path / "result" / "results.md").read_text().count("|") > 8
    with Image.open(tmp_path / "result" / "sheet.png") as sheet:
        assert sheet.size == (4 * 320, 320)
