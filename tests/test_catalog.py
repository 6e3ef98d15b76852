import pytest
from conftest import tiny_onnx

from denoiser import catalog
from denoiser.engine import Model
from denoiser.errors import ModelError
from denoiser.files import sha256_of


@pytest.fixture
def release(tmp_path, monkeypatch):
    """Give a function that releases a model into an empty folder."""
    monkeypatch.setattr(catalog, "folder", lambda: tmp_path)

    def write(name):
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(tiny_onnx())
        card = {
            "name": name,
            "summary": "",
            "license": "CC0-1.0",
            "sha256": sha256_of(path),
        }
        path.with_suffix(".toml").write_text("".join(f'{k} = "{v}"\n' for k, v in card.items()))
        return path

    return write


def test_kinds_stand_for_their_newest_version(release):
    paths = [release(f"denoise-fast-v{version}") for version in (2, 10, 9)]
    assert catalog.find("fast") == paths[1] and catalog.find("denoise-fast-v2") == paths[0]
    with pytest.raises(ModelError, match="no model 'best'; released: denoise-fast-v10, "):
        catalog.find("best")
    mine = release("my.kind-v1")
    assert catalog.find("my.kind") == mine
    with pytest.raises(ModelError, match="no model 'my_kind'"):
        catalog.find("my_kind")


def test_the_default_is_balanced_on_a_cpu_and_best_on_a_gpu(release):
    with pytest.raises(ModelError, match="no released models"):
        catalog.find()
    fast = release("denoise-fast-v1")
    assert catalog.find() == catalog.find(gpu=True) == fast  # rather than nothing
    balanced = release("denoise-balanced-v1")
    assert catalog.find() == catalog.find(gpu=True) == balanced
    best = release("denoise-best-v2")
    assert catalog.find() == balanced and catalog.find(gpu=True) == best


@pytest.mark.parametrize("card", catalog.cards(), ids=lambda card: card.name)
def test_a_released_model_is_what_its_card_says(card):
    assert catalog.find(card.name) == card.path and sha256_of(card.path) == card.sha256
    contract = Model(card.path, device="cpu").contract
    told = [contract.name, contract.stride, contract.halo]
    assert told == [card.details[key] for key in ("name", "stride", "halo")]
    assert card.license == "Apache-2.0" and card.summary and card.details["training_data"]


def test_damage_is_noticed(release):
    path = release("denoise-fast-v1")
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(ModelError, match="missing or damaged"):
        catalog.find("fast")
