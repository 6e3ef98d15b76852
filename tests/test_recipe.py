import pytest
from conftest import SHIPPED

from denoiser.errors import RecipeError
from denoiser.training.autoencoder import ConvAutoencoder
from denoiser.training.corruption import Clip, Defects, Either, Grey, Masking
from denoiser.training.noises import Correlated, Gaussian, PoissonGaussian, Speckle
from denoiser.training.recipe import Network, Recipe, Training, load_recipe


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
        ("corruption = [{ kind = 'defects', strength = [0, 1], visible = 25 }]", "visible"),
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


BLIND = Network(noise_map=False)
FINDS = Network(noise_map=False, detects=True)
SCRATCHED = Defects(strength=(0.3, 0.9))


@pytest.mark.parametrize(
    ("network", "steps", "supervision", "words"),
    [
        (BLIND, (), "clean", "learns to copy"),
        (Network(), (Masking(density=(0, 0.1)),), "clean", "noise_map = false"),
        (BLIND, (), "neighbor2neighbor", "loss = 'l2'"),
        (FINDS, (Either(steps=(SCRATCHED,)),), "clean", "inside either"),
        (FINDS, (SCRATCHED, Either(steps=(Grey(),))), "clean", "must come before"),
    ],
)
def test_what_would_teach_nothing_is_read_but_not_trained(network, steps, supervision, words):
    recipe = Recipe("x", network, steps, training=Training(supervision=supervision))
    assert Recipe.from_json(recipe.to_json()) == recipe
    with pytest.raises(RecipeError, match=words):
        recipe.check_purpose()


def test_recipes_that_are_shipped_teach_something():
    for path in (SHIPPED / "scripts" / "recipes").glob("*.toml"):
        if "[network]" in path.read_text():
            load_recipe(path).check_purpose()
    estimating = Network(estimator=8)  # which measures the level
    Recipe("x", estimating, (Masking(density=(0, 0.1)),)).check_purpose()


def test_noise_beyond_the_scale_is_trained_for_up_to_its_end():
    loud = Gaussian(sigma=(200, 255))
    assert Recipe("x", corruption=(loud, loud)).sigma_range == (255, 255)


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
    nested = photo.corruption[0].otherwise[0].otherwise[0].steps[0]
    assert nested == Either(
        part=0.6,
        steps=(Gaussian(sigma=(0, 60)),),
        otherwise=(Gaussian(sigma=(0, 12), share=0.8),),
    )
