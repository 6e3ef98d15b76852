import pytest
from conftest import SHIPPED

from denoiser.errors import RecipeError
from denoiser.training.autoencoder import ConvAutoencoder
from denoiser.training.corruption import (
    Clip,
    Correlated,
    Either,
    Gaussian,
    Masking,
    PoissonGaussian,
    Speckle,
)
from denoiser.training.recipe import Network, Recipe, load_recipe

DEFECTS = "{ kind = 'defects', strength = [0.3, 0.9] }"
DETECTING = "[network]\ndetects = true\nnoise_map = false"


@pytest.mark.parametrize("path", sorted((SHIPPED / "scripts" / "recipes").glob("*.toml")))
def test_shipped_recipes_load_and_survive_json(path):
    recipe = load_recipe(path)
    assert recipe.name == path.stem and Recipe.from_json(recipe.to_json()) == recipe
    ConvAutoencoder(recipe.network)
    assert len(path.read_text().splitlines()) < 35


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[network]\nwidth = 3", "unknown key 'width'"),
        ("corruption = [{ kind = 'gaussian', sigma = [50, 10] }]", "sigma must be"),
        ("corruption = [{ kind = 'gaussian', sigma = [0, 300] }]", "0 <= low <= high <= 255"),
        ("corruption = [{ kind = 'gaussian', sigma = 3 }]", r"sigma must be \[low, high\], not 3"),
        ("corruption = [{ kind = 'gaussian' }]", "gaussian: sigma must be given"),
        ("corruption = [{ kind = 'gaussian', sigma = ['a', 'b'] }]", r"must be \[low, high\]"),
        ("corruption = [{ kind = 'gaussian', sigma = [false, true] }]", r"must be \[low, high\]"),
        ("corruption = [{ kind = 'gaussian', sigma = [0, 9], share = 'half' }]", "a number"),
        ("corruption = [{ kind = 'defects', strength = [0.3, 0.9] }]", "need each other"),
        ("[holes]\nwidth_px = 40", r"width_px must be \[low, high\]"),
        ("[holes]\nwidth_px = [40, 2]", "1 <= low <= high"),
        ("[training]\nseed = 100000000000000", "seed must lie in"),
        ("corruption = [{ kind = 'gaussian', sigma = [0, 9], share = 2 }]", "share"),
        ("corruption = [{ kind = 'rain' }]", "unknown kind 'rain'"),
        ("corruption = [{ kind = 'jpeg', colour = 3 }]", "'colour'; known: share, quality"),
        ("[corruption]\nsigma = [0, 9]", "list of steps"),
        ("corruption = 'sky'", "sky.toml"),
        ("corruption = [{ kind = 'either', steps = [{ kind = 'rain' }] }]", "unknown kind 'rain'"),
        ("corruption = [{ kind = 'either', part = 2 }]", "part"),
        ("network.estimator = 8\nnetwork.skips = false", "estimator needs"),
        ("training.told = 2", "told"),
        ("training.learns = 'estimator'", "learns"),
        ("training.learns = 'slowly'", "learns"),
        ("network.fade = 0", "fade must be positive"),
        ("network.estimator_levels = -1", "estimator_levels"),
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
        ("[penalties]\nsparsity = 'kl'\nsparsity_weight = 1", "sigmoid"),
        ("[penalties]\nsparsity = 'l1'", "sparsity_weight"),
        ("[penalties]\nsparsity_weight = 0.1", "sparsity_weight"),
        ("[penalties]\ncontraction = -1", "contraction"),
        ("[penalties]\nrho = 1", "rho"),
        ("[training]\nrate = -1", "rate"),
        ("[training]\nrate = nan", "rate"),
        ("[training]\nrate = 'fast'", "rate must be a number"),
        ("[training]\nweight_decay = -1", "weight_decay"),
        ("[training]\nwarmup_steps = -3", "warmup_steps"),
        ("[training]\nsupervision = 'neighbor2neighbor'", "noise_map = false"),
        ("[network]\nnoise_map = false\n[training]\nsupervision = 'neighbor2neighbor'", "'l2'"),
        (f"corruption = [{{ kind = 'either', steps = [{DEFECTS}] }}]\n{DETECTING}", "two ways"),
        (f"corruption = [{DEFECTS}, {{ kind = 'grey' }}]\n{DETECTING}", "must come before"),
        (f"corruption = [{DEFECTS.replace('}', ', visible = 25 }')}]\n{DETECTING}", "visible"),
        ("this is no toml", "not TOML"),
    ],
)
def test_bad_recipes_are_refused_with_the_reason(text, words, tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=words):
        load_recipe(path)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ((), (0, 255)),
        ((Masking(density=(0, 0.1)),), (0, 255)),
        ((Gaussian(sigma=(0, 60)), Clip(share=0.1)), (0, 60)),
        ((Gaussian(sigma=(3, 30)), Correlated(sigma=(4, 40), blur_px=(0, 1))), (5, 50)),
        ((Gaussian(sigma=(3, 30)), Gaussian(sigma=(4, 40), share=0.5)), (3, 50)),
        ((PoissonGaussian(gain=(0.01, 0.04), sigma=(2, 10)),), (2, 51.98)),
        ((Speckle(sigma=(0.1, 2)),), (0, 255)),
    ],
)
def test_sigma_range_is_what_the_steps_add_up_to(steps, expected):
    assert Recipe("x", corruption=steps).sigma_range == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize(
    ("steps", "words"),
    [((), "learns to copy"), ((Masking(density=(0, 0.1)),), "noise_map = false")],
)
def test_what_would_learn_nothing_is_not_trained(steps, words):
    with pytest.raises(RecipeError, match=words):
        Recipe("x", corruption=steps).check_purpose()
    Recipe("x", Network(noise_map=False), steps or (Gaussian(sigma=(0, 9)),)).check_purpose()


def test_corruption_may_be_that_of_another_recipe(tmp_path):
    (tmp_path / "rain.toml").write_text("corruption = [{ kind = 'gaussian', sigma = [1, 2] }]")
    (tmp_path / "mine.toml").write_text("corruption = 'rain'")
    assert load_recipe(tmp_path / "mine.toml").corruption == (Gaussian(sigma=(1, 2)),)
    (tmp_path / "rain.toml").write_text("name = 'rain'")
    with pytest.raises(RecipeError, match=r"rain\.toml has no list"):
        load_recipe(tmp_path / "mine.toml")


def test_the_levels_of_either_way_count():
    photo = load_recipe(SHIPPED / "scripts" / "recipes" / "photo.toml")
    assert photo.sigma_range == (0, 60)
    nested = photo.corruption[0].otherwise[0].steps[0]
    assert nested == Either(
        part=0.6,
        steps=(Gaussian(sigma=(0, 60)),),
        otherwise=(Gaussian(sigma=(0, 12), share=0.8),),
    )
