import pytest
from conftest import SHIPPED

from denoiser.errors import RecipeError
from denoiser.training.autoencoder import ConvAutoencoder
from denoiser.training.corruption import Clip, Gaussian
from denoiser.training.recipe import Recipe, load_recipe


@pytest.mark.parametrize("path", sorted((SHIPPED / "scripts" / "recipes").glob("*.toml")))
def test_shipped_recipes_load_and_survive_json(path):
    recipe = load_recipe(path)
    assert recipe.name == path.stem and Recipe.from_json(recipe.to_json()) == recipe
    ConvAutoencoder(recipe.network)
    assert len(path.read_text().splitlines()) < 30


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[network]\nwidth = 3", "unknown key 'width'"),
        ("corruption = [{ kind = 'gaussian', sigma = [50, 10] }]", "sigma must be"),
        ("corruption = [{ kind = 'gaussian', sigma = [0, 300] }]", "0 <= low <= high <= 255"),
        ("corruption = [{ kind = 'gaussian', sigma = 3 }]", "gaussian"),
        ("corruption = [{ kind = 'gaussian' }]", "sigma"),
        ("corruption = [{ kind = 'gaussian', sigma = [0, 9], share = 2 }]", "share"),
        ("corruption = [{ kind = 'rain' }]", "unknown kind 'rain'"),
        ("corruption = [{ kind = 'jpeg', colour = 3 }]", "'colour'; known: share, quality"),
        ("[corruption]\nsigma = [0, 9]", "list of steps"),
        ("[training]\nloss = 'l3'", "loss"),
        ("[training]\ncrop_px = 97", "multiple of 8"),
        ("[network]\nchannels = []", "channels"),
        ("[network]\nchannels = [8.0, 16]", "whole numbers"),
        ("[network]\nunshuffle = 0", "unshuffle"),
        ("[network]\nskips = 1", "skips must be true or false"),
        ("[penalties]\nprobes = 1.5", "probes must be a whole number"),
        ("[network]\ncode_activation = 'tanh'", "code_activation"),
        ("network = 3", "section"),
        ("[penalties]\nsparsity = 'l0'", "sparsity"),
        ("[penalties]\nsparsity = 'kl'", "sigmoid"),
        ("[penalties]\ncontraction = -1", "contraction"),
        ("[penalties]\nrho = 1", "rho"),
        ("[training]\nrate = -1", "rate"),
        ("[training]\nsupervision = 'neighbor2neighbor'", "noise_map = false"),
        ("this is no toml", "no TOML"),
    ],
)
def test_bad_recipes_are_refused_with_the_reason(text, words, tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=words):
        load_recipe(path)


def test_sigma_range_spans_the_gaussian_steps():
    levels = (Gaussian(sigma=(5, 20)), Clip(), Gaussian(sigma=(0, 55), share=0.5))
    assert Recipe("x", corruption=levels).sigma_range == (0, 55)
    assert Recipe("x").sigma_range == (0, 255)
