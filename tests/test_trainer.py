import csv
import dataclasses
import itertools
import math
import signal

import pytest
import torch
from conftest import CPU, TINY
from PIL import Image

from denoiser.errors import InputError, RecipeError, TrainingError
from denoiser.training import trainer as trainer_module
from denoiser.training.autoencoder import ConvAutoencoder
from denoiser.training.checkpoint import load_checkpoint
from denoiser.training.corruption import Clip, Jpeg
from denoiser.training.dataset import Crops
from denoiser.training.noises import Correlated, Gaussian
from denoiser.training.recipe import Penalties, Training
from denoiser.training.trainer import Trainer, schedule


@pytest.fixture
def crops(photo):
    return Crops([photo], 32, CPU)


def make(**changes):
    return dataclasses.replace(TINY, training=dataclasses.replace(TINY.training, **changes))


def flat(weights):
    return torch.cat([value.flatten() for value in weights.values()])


def test_schedule_warms_up_and_ends_at_zero():
    training = Training(steps=100, warmup_steps=10, rate=1.0)
    rates = [schedule(step, training) for step in range(101)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == 1 and rates[100] == 0
    assert all(late <= early for early, late in itertools.pairwise(rates[10:]))
    short = Training(steps=20, warmup_steps=500, rate=1.0)  # what is left is warm-up enough
    assert max(schedule(step, short) for step in range(20)) == 1


@pytest.mark.parametrize("recipe", [TINY, make(muon_rate=1e-3)], ids=["adamw", "muon"])
def test_resumed_training_is_bit_exact(recipe, crops, photo, tmp_path):
    straight = Trainer(recipe, CPU, "fp32")
    straight.run(crops, [photo], tmp_path / "a", log_every=2)

    first = Trainer(recipe, CPU, "fp32")
    for _ in range(3):
        first.train_step(crops)
    first.save(tmp_path / "checkpoint.pt")
    second = Trainer(recipe, CPU, "fp32")
    second.resume(tmp_path / "checkpoint.pt")
    assert second.step == 3
    second.run(crops, [photo], tmp_path / "b", log_every=2)

    assert torch.equal(flat(straight.model.state_dict()), flat(second.model.state_dict()))
    assert torch.equal(flat(straight.averaged.state_dict()), flat(second.averaged.state_dict()))
    logs = [(tmp_path / run / "log.csv").read_text().splitlines() for run in "ab"]
    assert logs[0][0] == logs[1][0] and len(logs[0]) == 4
    assert logs[0][-1].split(",")[-3:] == logs[1][-1].split(",")[-3:]  # validation PSNR
    with Image.open(tmp_path / "a" / "validation.png") as sheet:
        assert sheet.size == (12 * 256, 256)


def test_soon_after_its_start_a_run_says_how_long_it_will_take(crops, tmp_path):
    lines: list[str] = []
    Trainer(make(steps=12), CPU, "fp32").run(crops, [], tmp_path, report=lines.append)
    assert lines[0].startswith("step 10/12  about ") and lines[0].endswith(" s left")
    assert len(lines) == 2 and "loss" in lines[1]


def test_an_interrupt_saves_first(crops, tmp_path, monkeypatch):
    trainer = Trainer(TINY, CPU, "fp32")
    step = trainer.train_step

    def interrupted(*arguments):
        if trainer.step == 4:
            raise KeyboardInterrupt
        return step(*arguments)

    monkeypatch.setattr(trainer, "train_step", interrupted)
    lines: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        trainer.run(crops, [], tmp_path, report=lines.append)
    assert load_checkpoint(tmp_path / "checkpoint.pt")["step"] == 4
    assert "checkpoint.pt holds step 4" in lines[-1]


def test_an_interrupt_of_the_last_validation_costs_no_line(crops, photo, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(trainer_module, "validate", interrupt)
        Trainer(TINY, CPU, "fp32").run(crops, [photo], tmp_path, log_every=3)
    again = Trainer(TINY, CPU, "fp32")
    again.resume(tmp_path / "checkpoint.pt")
    again.run(crops, [photo], tmp_path, log_every=3)
    steps = [line.split(",")[0] for line in (tmp_path / "log.csv").read_text().splitlines()]
    assert steps == ["step", "3", "6"]
    assert {"curves.png", "validation.png"} < {path.name for path in tmp_path.iterdir()}


def test_an_interrupt_does_not_save_a_diverged_run(crops, tmp_path, monkeypatch):
    trainer = Trainer(TINY, CPU, "fp32")
    losses = iter([0.1, 0.1, 5000.0])

    def step(*_):
        trainer.step += 1
        loss = next(losses, None)
        if loss is None:
            raise KeyboardInterrupt
        return torch.tensor(loss), torch.tensor(0.0)

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


@pytest.mark.parametrize("spike", ["late in the window", "in the last weights"])
def test_a_run_that_has_just_diverged_is_not_saved(spike, crops, tmp_path, monkeypatch):
    trainer = Trainer(make(steps=200), CPU, "fp32")

    def step(*_):
        trainer.step += 1
        exploding = spike == "late in the window" and trainer.step > 195
        if spike == "in the last weights" and trainer.step == 200:
            with torch.no_grad():
                trainer.model.head.weight[0, 0, 0, 0] = torch.nan
        return torch.tensor(0.5 if exploding else 0.02), torch.tensor(0.0)

    monkeypatch.setattr(trainer, "train_step", step)
    with pytest.raises(TrainingError, match="step 200"):
        trainer.run(crops, [], tmp_path, log_every=100, checkpoint_s=0)
    assert load_checkpoint(tmp_path / "checkpoint.pt")["step"] == 100


def test_an_interrupt_waits_for_the_step_to_be_whole(crops, tmp_path, monkeypatch):
    straight, stopped = Trainer(TINY, CPU, "fp32"), Trainer(TINY, CPU, "fp32")
    for _ in range(4):
        straight.train_step(crops)
    optimize = stopped.optimizer.step

    def interrupted(share):
        optimize(share)
        if stopped.step == 2:
            signal.raise_signal(signal.SIGTERM)  # as from another process

    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(stopped.optimizer, "step", interrupted)
            with pytest.raises(KeyboardInterrupt):
                stopped.run(crops, [], tmp_path)
        assert signal.getsignal(signal.SIGTERM) == signal.default_int_handler
    finally:
        signal.signal(signal.SIGTERM, before)
    resumed = Trainer(TINY, CPU, "fp32")
    resumed.resume(tmp_path / "checkpoint.pt")
    assert resumed.step == 3
    resumed.train_step(crops)
    assert torch.equal(flat(resumed.averaged.state_dict()), flat(straight.averaged.state_dict()))


def test_corruption_does_not_depend_on_the_precision(crops):
    steps = (Correlated(sigma=(20, 20), blur_px=(1, 1)), Jpeg(quality=(50, 50)))
    examples = []
    for precision in ("fp32", "bf16"):
        trainer = Trainer(dataclasses.replace(TINY, corruption=steps), CPU, precision)
        monitored = trainer.objective
        trainer.objective = lambda *given, monitored=monitored: (
            examples.append(given), monitored(*given)
        )[1]  # fmt: skip
        trainer.train_step(crops)
    assert all(map(torch.equal, *examples))


def test_a_run_may_be_renamed_but_other_pictures_are_told(crops, photo, tmp_path):
    first = Trainer(TINY, CPU, "fp32")
    with pytest.raises(KeyboardInterrupt):
        first.run(crops, [], tmp_path, log_every=2, report=interrupt)
    second = Trainer(dataclasses.replace(TINY, name="renamed"), CPU, "fp32")
    lines = []
    second.resume(tmp_path / "checkpoint.pt")
    second.run(crops, [], tmp_path, report=lines.append)
    assert "pictures" not in lines[0]
    second = Trainer(TINY, CPU, "fp32")
    second.resume(tmp_path / "checkpoint.pt")
    second.run(Crops([photo[::-1]], 32, CPU), [], tmp_path, report=lines.append)
    assert lines[-1] == "warning: these are not the pictures that the run began with"


def interrupt(line):
    if line.startswith("step"):
        raise KeyboardInterrupt


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
    with (tmp_path / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"]) * 0.7
    assert float(rows[-1]["psnr_50_db"]) > 17  # the noisy picture has 14.2


@pytest.mark.parametrize(
    ("network", "penalties"),
    [
        ({}, {"sparsity": "l1", "sparsity_weight": 1.0}),
        ({"code_activation": "sigmoid"}, {"sparsity": "kl", "sparsity_weight": 1.0, "rho": 0.1}),
        ({"skips": False, "code_channels": 6}, {"contraction": 1.0}),
        (
            {"code_activation": "sigmoid", "skips": False, "noise_map": False},
            {"sparsity": "kl", "sparsity_weight": 0.1, "contraction": 0.1, "probes": 2},
        ),
    ],
    ids=["l1", "kl", "contractive", "all"],
)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_penalties_shrink_when_trained(crops, network, penalties, precision):
    recipe = dataclasses.replace(
        make(steps=60, batch=4, rate=1e-2),
        network=dataclasses.replace(TINY.network, **network),
        penalties=Penalties(**penalties),
    )
    trainer = Trainer(recipe, CPU, precision)
    terms = [trainer.train_step(crops)[1].item() for _ in range(60)]
    assert terms[0] > 0 and sum(terms[-10:]) < 0.4 * sum(terms[:10])


def test_a_batch_must_be_shared_evenly(monkeypatch):
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 0)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 3)
    with pytest.raises(RecipeError, match="batch of 2 cannot be shared by 3"):
        Trainer(TINY, CPU)


def test_curves_and_validation_are_drawn(crops, photo, tmp_path):
    Trainer(TINY, CPU, "fp32").run(crops, [photo], tmp_path, log_every=2, validate_every=2)
    assert {path.name for path in tmp_path.iterdir()} == {
        "checkpoint.pt", "log.csv", "curves.png", "validation.png"
    }  # fmt: skip


ESTIMATING = dataclasses.replace(TINY.network, estimator=4)


def test_a_share_of_the_crops_is_told_how_far_they_are_from_clean(crops):
    steps = (Gaussian(sigma=(20, 20)), Clip())
    recipe = dataclasses.replace(make(batch=64, told=0.25), network=ESTIMATING, corruption=steps)
    noisy, sigma, clean = Trainer(recipe, CPU, "fp32").examples.draw(crops)
    level = sigma[:, 0, 0, 0]
    told = level >= 0
    assert 4 < told.sum() < 32 and (level[~told] == -1).all()
    rms = (noisy - clean).square().mean((1, 2, 3)).sqrt()
    torch.testing.assert_close(level[told], rms[told])


def test_weights_without_estimator_may_begin_a_run_with_one(crops):
    trainer = Trainer(dataclasses.replace(TINY, network=ESTIMATING), CPU, "fp32")
    old = ConvAutoencoder(TINY.network).state_dict()
    trainer.start_from(TINY, old)
    for network in (trainer.model, trainer.averaged):
        state = network.state_dict()
        assert all(torch.equal(state[name], value) for name, value in old.items())
    assert math.isfinite(sum(part.item() for part in trainer.train_step(crops)))
    with pytest.raises(RecipeError, match="another network"):
        trainer.start_from(TINY, {name: old[name] for name in list(old)[1:]})


@pytest.mark.parametrize("levels", [0, 1])
def test_weights_without_levels_of_the_estimator_may_begin_a_run_with_them(levels):
    networks = [dataclasses.replace(ESTIMATING, estimator_levels=count) for count in (levels, 2)]
    assert networks[1].stride == 32
    trainer = Trainer(dataclasses.replace(TINY, network=networks[1]), CPU, "fp32")
    old, image = ConvAutoencoder(networks[0]), torch.rand(2, 3, 64, 32)
    for value in old.state_dict().values():  # as training leaves none the identity
        value.add_(0.05 * torch.randn(value.shape))
    trainer.start_from(dataclasses.replace(TINY, network=networks[0]), old.state_dict())
    told = -torch.ones(2, 1, 64, 32)
    with torch.no_grad():  # they change nothing before they have learned something
        pairs = old.restore(image, told), trainer.model.restore(image, told)
        for before, after in zip(*pairs, strict=True):
            torch.testing.assert_close(after, before)


@pytest.mark.parametrize("other", [{"skips": False}, {"phases": 2}, {"code_activation": "relu"}])
def test_weights_that_mean_something_else_begin_no_run(other):
    network = dataclasses.replace(TINY.network, **other)
    with pytest.raises(RecipeError, match=f"network.{next(iter(other))} = "):
        Trainer(TINY, CPU).start_from(
            dataclasses.replace(TINY, network=network), ConvAutoencoder(network).state_dict()
        )


def test_weights_of_fewer_blocks_may_begin_a_run_with_more():
    network = dataclasses.replace(TINY.network, blocks=3)
    trainer = Trainer(dataclasses.replace(TINY, network=network), CPU, "fp32")
    old, image = ConvAutoencoder(TINY.network), torch.rand(2, 3, 32, 32)
    for value in old.state_dict().values():  # as training leaves no block the identity
        value.add_(0.05 * torch.randn(value.shape))
    trainer.start_from(TINY, old.state_dict())
    with torch.no_grad():  # those that are new change nothing before they have learned something
        torch.testing.assert_close(trainer.model(image, image[:, :1]), old(image, image[:, :1]))


@pytest.mark.parametrize("part", ["estimator", "restorer"])
def test_one_part_may_learn_alone(crops, part):
    training = dataclasses.replace(TINY.training, learns=part, muon_rate=1e-3)
    recipe = dataclasses.replace(TINY, network=ESTIMATING, training=training)
    trainer = Trainer(recipe, CPU, "fp32")
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    loss, penalty = trainer.train_step(crops)
    assert loss > 0 and (penalty == 0) == (part == "estimator")
    for name, value in trainer.model.state_dict().items():
        learns = name.startswith("estimator.") == (part == "estimator")
        assert torch.equal(value, before[name]) != learns, name


def test_weights_of_a_denoiser_may_begin_a_run_for_holes():
    network = dataclasses.replace(TINY.network, noise_map=False, hole=True)
    trainer = Trainer(dataclasses.replace(TINY, network=network), CPU, "fp32")
    own = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    old = ConvAutoencoder(ESTIMATING).state_dict()
    trainer.start_from(dataclasses.replace(TINY, network=ESTIMATING), old)
    state, image_inputs = trainer.model.state_dict(), 3 * network.unshuffle**2
    for name, value in state.items():
        source = own if name.startswith("tail.") else old
        if name != "head.weight":
            assert torch.equal(value, source[name]), name
    head = state["head.weight"]
    assert torch.equal(head[:, :image_inputs], old["head.weight"][:, :image_inputs])
    assert torch.equal(head[:, image_inputs:], own["head.weight"][:, image_inputs:])
    other = dataclasses.replace(TINY.network, channels=(4,))
    with pytest.raises(RecipeError, match="another network"):
        trainer.start_from(
            dataclasses.replace(TINY, network=other), ConvAutoencoder(other).state_dict()
        )
