import dataclasses

import numpy as np
import pytest
import torch
from conftest import CPU, TINY

from denoiser import catalog
from denoiser.engine import Model
from denoiser.errors import ModelError
from denoiser.files import sha256_of
from denoiser.restore import denoise
from denoiser.training import export as export_module
from denoiser.training.autoencoder import ConvAutoencoder
from denoiser.training.export import export, measure_halo, read_weights, to_onnx
from denoiser.training.recipe import Network
from denoiser.training.trainer import Trainer


def random_weights(network=TINY.network):
    weights = ConvAutoencoder(network).state_dict()
    generator = torch.Generator().manual_seed(0)
    return {k: v + 0.02 * torch.randn(v.shape, generator=generator) for k, v in weights.items()}


def export_tiny(target, photo, weights=None):
    weights = weights or random_weights()
    return export(TINY, weights, target, [photo], name="tiny", version="1", license="CC0-1.0")


def test_export_keeps_the_contract_and_can_be_read_back(photo, tmp_path):
    path, weights = tmp_path / "tiny.onnx", random_weights()
    facts = export_tiny(path, photo, weights)
    model = Model(path, device="cpu")
    assert model.contract.stride == facts["stride"] == 4
    assert model.contract.halo == facts["halo"] and facts["sha256"] == sha256_of(path)
    assert model.contract.sigma_range == pytest.approx((10 / 255, 50 / 255), abs=1e-6)
    recipe, back = read_weights(path)
    assert recipe == TINY
    torch.testing.assert_close(back, weights, rtol=0, atol=0)
    trainer = Trainer(TINY, CPU)
    trainer.start_from(recipe, back)
    torch.testing.assert_close(trainer.model.state_dict(), weights, rtol=0, atol=0)


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


def test_blind_networks_are_exported_without_noise_map(photo, tmp_path):
    shape = dataclasses.replace(
        TINY.network, noise_map=False, skips=False, code_channels=3, phases=2
    )
    recipe = dataclasses.replace(TINY, network=shape, corruption=())
    path = tmp_path / "blind.onnx"
    options = {"name": "blind", "version": "1", "license": "CC0-1.0"}
    export(recipe, random_weights(shape), path, [photo], **options)
    contract = Model(path, device="cpu").contract
    assert contract.inputs == ("image",) and contract.sigma_range == (0, 1)
    restored = denoise(photo, Model(path, device="cpu"))
    assert restored.shape == photo.shape and not np.array_equal(restored, photo)
    assert read_weights(path)[0] == recipe


def test_a_network_that_estimates_is_exported_with_its_noise_map(photo, tmp_path):
    shape = dataclasses.replace(TINY.network, estimator=4, estimator_levels=1)
    recipe = dataclasses.replace(TINY, network=shape)
    path, weights = tmp_path / "tiny.onnx", random_weights(recipe.network)
    export(recipe, weights, path, [photo], name="tiny", version="1", license="CC0-1.0")
    model = Model(path, device="cpu")
    assert model.contract.estimates and model.contract.stride == 16
    assert model.contract.noise_halo > model.contract.halo > 0
    network = ConvAutoencoder(recipe.network)
    network.load_state_dict(weights)
    image, unknown = torch.rand(2, 3, 48, 80), torch.full((2, 1, 48, 80), -1.0)
    with torch.no_grad():
        expected = network.restore(image, unknown)
    for wanted, found in zip(
        expected, model.run_with_noise(image.numpy(), unknown.numpy()), strict=True
    ):
        np.testing.assert_allclose(found, wanted.numpy(), atol=1e-5)
    back_recipe, back = read_weights(path)
    assert back_recipe == recipe
    torch.testing.assert_close(back, weights, rtol=0, atol=0)
