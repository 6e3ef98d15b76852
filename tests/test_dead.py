"""Dead channels start afresh or are left out, and nothing changes by that."""

import dataclasses

import pytest
import torch
from conftest import CPU

from denoiser.errors import ModelError
from denoiser.training.autoencoder import ConvAutoencoder
from denoiser.training.dataset import Crops
from denoiser.training.dead import ALIGNED, find_dead, prune, revive
from denoiser.training.export import export, read_weights
from denoiser.training.noises import Gaussian
from denoiser.training.recipe import Network, Recipe, Training
from denoiser.training.trainer import Trainer

NETWORK = Network(channels=(8, 12), blocks=1)
IMAGE = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
LEVEL = torch.full((4, 1, 32, 32), 0.1)
KILLED = [2, 3, 5]
RECIPE = Recipe(
    name="revived",
    network=NETWORK,
    corruption=(Gaussian(sigma=(0, 50)),),
    training=Training(steps=40, batch=2, crop_px=16, rate=1e-9, revive_every=20),
)


def killed(network):
    """The block whose channels KILLED are dead; the second convolutions are no longer zero."""
    for name, weight in network.named_parameters():
        if name.endswith("conv2.weight"):
            torch.nn.init.normal_(weight, std=0.1)
    block = network.encoders[1][0]
    with torch.no_grad():
        block.conv1.bias[KILLED] = -100
    return block


def hidden(network, block):
    seen = []
    hook = block.conv1.register_forward_hook(lambda *call: seen.append((call[1][0], call[2])))
    with torch.no_grad():
        network.reconstruct(IMAGE, LEVEL)
    hook.remove()
    return seen[0]


def largest(network):
    return hidden(network, network.encoders[1][0])[1].amax((0, 2, 3))


def test_dead_channels_start_afresh_and_the_output_stays():
    network = ConvAutoencoder(NETWORK)
    block = killed(network)
    before, _ = network.reconstruct(IMAGE, LEVEL)
    _, after_kill = hidden(network, block)
    alive = after_kill.amax((0, 2, 3)) > 0
    dead = revive(network, lambda: network.reconstruct(IMAGE, LEVEL))
    assert torch.equal(dead["encoders.1.0"], ~alive) and not alive[KILLED].any()
    after, _ = network.reconstruct(IMAGE, LEVEL)
    assert torch.equal(before, after)
    inputs, fresh = hidden(network, block)
    assert torch.equal(fresh[:, alive], after_kill[:, alive])
    strength = inputs.square().mean().sqrt().expand(3)
    fresh = fresh[:, KILLED]
    torch.testing.assert_close(fresh.std((0, 2, 3), unbiased=False), strength, rtol=1e-3, atol=0)
    assert ((fresh > 0).float().mean((0, 2, 3)) - 0.5).abs().max() < 0.25
    after.square().sum().backward()
    assert block.conv2.weight.grad[:, KILLED].abs().amin(1).amax() > 0
    assert revive(network, lambda: network.reconstruct(IMAGE, LEVEL)) == {}


def test_blocks_that_do_not_learn_are_left_alone():
    network = ConvAutoencoder(NETWORK)
    killed(network)
    network.requires_grad_(False)
    before = {name: weight.clone() for name, weight in network.state_dict().items()}
    assert revive(network, lambda: network.reconstruct(IMAGE, LEVEL)) == {}
    assert all(torch.equal(weight, before[name]) for name, weight in network.state_dict().items())


def test_a_run_revives_channels_of_both_networks(tmp_path):
    told = []
    trainer = Trainer(RECIPE, CPU, "fp32")
    killed(trainer.model)
    trainer.averaged.load_state_dict(trainer.model.state_dict())
    never = dataclasses.replace(
        RECIPE, training=dataclasses.replace(RECIPE.training, revive_every=0)
    )
    crops = Crops([torch.randint(0, 256, (40, 40, 3), dtype=torch.uint8).numpy()], 16, CPU)
    before, _ = trainer.averaged.reconstruct(IMAGE, LEVEL)
    trainer.run(crops, [], tmp_path / "run", report=told.append)
    assert sum("dead channels revived" in line for line in told) == 1
    for network in (trainer.model, trainer.averaged):
        assert largest(network)[KILLED].min() > 0
        torch.testing.assert_close(network.reconstruct(IMAGE, LEVEL)[0], before)
    other = Trainer(never, CPU, "fp32")
    killed(other.model)
    other.run(crops, [], tmp_path / "never", report=told.append)
    assert largest(other.model)[KILLED].max() < 0


def test_dead_channels_are_left_out_and_the_output_stays(photo, tmp_path):
    wide = Network(channels=(8, 3 * ALIGNED), blocks=1)
    network = ConvAutoencoder(wide)
    killed(network)
    with torch.no_grad():
        network.encoders[1][0].conv1.bias[ALIGNED:] = -100
    recipe = dataclasses.replace(RECIPE, network=wide)
    weights = {name: weight.clone() for name, weight in network.state_dict().items()}
    before, _ = network.reconstruct(IMAGE, LEVEL)
    dead = find_dead(network, lambda: network.reconstruct(IMAGE, LEVEL))
    assert dead["encoders.1.0"][KILLED].all() and dead["encoders.1.0"][ALIGNED:].all()
    assert prune(network, dead) == 2 * ALIGNED
    torch.testing.assert_close(network.reconstruct(IMAGE, LEVEL)[0], before, rtol=0, atol=1e-6)

    path, named = tmp_path / "pruned.onnx", {"name": "pruned", "version": "1", "license": "CC0-1.0"}
    facts = export(recipe, weights, path, [photo], **named, dead=dead)
    whole = export(recipe, weights, tmp_path / "whole.onnx", [photo], **named)
    assert facts["dead_channels_left_out"] == 2 * ALIGNED and facts["halo"] == whole["halo"]
    assert facts["parameters"] < whole["parameters"] / 2
    trainer = Trainer(recipe, CPU, "fp32")
    trainer.start_from(*read_weights(path))
    torch.testing.assert_close(trainer.model.reconstruct(IMAGE, LEVEL)[0], before)
    again = find_dead(trainer.model, lambda: trainer.model.reconstruct(IMAGE, LEVEL))
    assert torch.equal(again["encoders.1.0"], dead["encoders.1.0"])


def test_a_channel_that_lives_is_not_left_out(photo, tmp_path):
    wide = Network(channels=(2 * ALIGNED, 12), blocks=1)
    network = ConvAutoencoder(wide)
    killed(network)
    dead = {"encoders.0.0": torch.ones(2 * ALIGNED, dtype=torch.bool)}
    recipe, target = dataclasses.replace(RECIPE, network=wide), tmp_path / "a.onnx"
    named = {"name": "a", "version": "1", "license": "CC0-1.0"}
    with pytest.raises(ModelError, match="channels out changes"):
        export(recipe, network.state_dict(), target, [photo], **named, dead=dead)
    assert not list(tmp_path.iterdir())
