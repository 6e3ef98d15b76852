import numpy as np
import pytest
from conftest import filling_onnx, tiny_onnx
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper
from test_restore import dtypes, random_image

from denoiser import denoise, filling, load_model
from denoiser.engine import Model
from denoiser.errors import (
    ArgumentError,
    InputError,
    ModelError,
    OutOfMemoryError,
    ShapeError,
)
from denoiser.filling import inpaint
from denoiser.job import Inpainting
from denoiser.picture import Picture, white_of


@pytest.fixture(scope="module")
def quarter() -> Model:
    """Fills with a quarter of white."""
    return Model(filling_onnx(0.25), device="cpu")


def random_hole(height: int, width: int, boxes: list[tuple[float, float, float, float]]):
    """Union of boxes, given as shares of the size."""
    hole = np.zeros((height, width), bool)
    for y, x, down, across in boxes:
        top, left = int(y * height), int(x * width)
        hole[top : top + 1 + int(down * height), left : left + 1 + int(across * width)] = True
    return hole


def test_half_precision_does_not_overflow():
    model = Model(filling_onnx(1.5), device="cpu")
    image, hole = np.full((32, 32), 65_000, np.float16), np.eye(32, dtype=bool)
    filled = inpaint(image, hole, model, grain_share=0)
    assert np.isfinite(filled).all() and (filled[~hole] == 65_000).all()


shares = st.floats(0, 0.99)
boxes = st.lists(st.tuples(shares, shares, st.floats(0, 0.5), st.floats(0, 0.5)), max_size=5)


@given(
    st.integers(1, 260),
    st.integers(1, 260),
    st.sampled_from([0, 1, 3]),
    dtypes,
    boxes,
    st.sampled_from([0, 1]),
    st.sampled_from([224, 1024]),
    st.sampled_from([3, 64]),
)
def test_outside_the_hole_nothing_changes(
    quarter, height, width, channels, dtype, places, grain, tile_px, cells
):
    image = random_image((height, width, channels) if channels else (height, width), dtype)
    hole = random_hole(height, width, places)
    if hole.all():
        hole[0, 0] = False
    before = image.copy()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(filling, "TILE_PX", tile_px)
        patch.setattr(filling, "LARGEST_CELLS", cells)
        patch.setattr(filling, "OVERLAP_PX", 16)
        filled = inpaint(image, hole, quarter, grain_share=grain)
    np.testing.assert_array_equal(image, before)
    assert filled.dtype == image.dtype
    np.testing.assert_array_equal(filled[~hole], before[~hole])
    if not grain:
        rounding = 0.5 if image.dtype.kind == "u" else 1e-6
        np.testing.assert_allclose(filled[hole], 0.25 * white_of(image), atol=rounding)


def test_feather_and_soft_masks_blend_inside_only(quarter):
    image = np.full((96, 96), 255, np.uint8)
    hole = np.zeros((96, 96))
    hole[30:60, 20:80] = 1
    filled = inpaint(image, hole, quarter, feather_px=9, grain_share=0)
    assert (filled[hole == 0] == 255).all() and filled[45, 50] == 64
    edge = filled[30:40, 50].astype(int)
    assert edge[0] > 220 and (np.diff(edge) < 0).all()
    thin = hole.copy()
    thin[34:] = 0
    filled = inpaint(image, thin, quarter, feather_px=50, grain_share=0)
    assert (filled[31:33, 50] == 64).all()  # or what is hidden there would stay
    soft = inpaint(image, hole * 0.5, quarter, grain_share=0)
    assert (soft[hole == 0] == 255).all() and (soft[hole > 0] == 159).all()


def test_wide_holes_get_a_first_guess_from_half_the_resolution(monkeypatch):
    """A model that leaves blank holes white and guesses as they are."""
    monkeypatch.setattr(filling, "DIRECT_PX", 24)
    nodes = [
        helper.make_node("Floor", ["hole"], ["blank"]),  # 1 where nothing is known
        helper.make_node("Max", ["image", "blank"], ["restored"]),
    ]
    model = Model(tiny_onnx(nodes, inputs=("image", "hole")), device="cpu")
    image = np.zeros((300, 300, 3), np.float32)
    narrow, wide = np.zeros((2, 300, 300), bool)
    narrow[100:130, 50:250] = True
    wide[60:231, 70:220] = True
    calls = []
    run = model.run
    model.run = lambda *batch: calls.append(batch[0].shape[2:]) or run(*batch)  # type: ignore[method-assign]
    np.testing.assert_array_equal(inpaint(image, narrow, model, grain_share=0)[narrow], 1)
    assert len(calls) == 1
    filled = inpaint(image, wide, model, grain_share=0)
    assert [shape[0] for shape in calls[1:]] == sorted(shape[0] for shape in calls[1:])
    assert len(calls) == 4  # half width 75: at a quarter, a half and in full
    assert filled[145, 145, 0] == 1 and filled[~wide].max() == 0


def test_only_tiles_with_holes_are_computed(quarter, monkeypatch):
    monkeypatch.setattr(filling, "TILE_PX", 160)
    calls = []
    run = quarter.run
    monkeypatch.setattr(quarter, "run", lambda *batch: calls.append(1) or run(*batch))
    hole = np.zeros((1000, 1000), bool)
    hole[np.arange(1000), np.arange(1000)] = True  # a scratch from corner to corner
    inpaint(np.zeros((1000, 1000, 3), np.uint8), hole, quarter)
    assert 10 < len(calls) < 70  # of 100


def test_grain_is_that_of_the_surroundings(quarter, rng):
    noise = rng.normal(0, 10, (200, 200, 3)) @ np.array([[1, 0.6, 0], [0, 0.8, 0], [0, 0, 0.3]])
    image = np.clip(np.rint(64 + noise), 0, 255).astype(np.uint8)
    hole = np.zeros((200, 200), bool)
    hole[70:130, 60:140] = True
    filled = inpaint(image, hole, quarter)
    wanted, found = np.cov(image[~hole].T), np.cov(filled[hole].T)
    np.testing.assert_allclose(np.sqrt(np.diag(found)), np.sqrt(np.diag(wanted)), rtol=0.25)
    correlation = found[0, 1] / np.sqrt(found[0, 0] * found[1, 1])
    assert correlation == pytest.approx(0.6, abs=0.15)
    np.testing.assert_array_equal(filled, inpaint(image, hole, quarter))  # the same every time
    less = inpaint(image, hole, quarter, grain_share=0.5)[hole].std(0)
    np.testing.assert_allclose(less, filled[hole].std(0) / 2, rtol=0.2)
    assert inpaint(image, hole, quarter, grain_share=0)[hole].std() == 0


def test_parts_of_a_huge_hole_are_filled_from_its_edge_inwards(quarter, monkeypatch):
    monkeypatch.setattr(filling, "LARGEST_CELLS", 2)
    known = []
    run = quarter.run
    monkeypatch.setattr(
        quarter, "run", lambda *batch: known.append(bool((batch[1] == 0).any())) or run(*batch)
    )
    hole = np.zeros((600, 600), bool)
    hole[:590, :590] = True
    filled = inpaint(np.full((600, 600, 3), 200, np.uint8), hole, quarter, grain_share=0)
    assert (filled[hole] == 64).all() and (filled[~hole] == 200).all()
    assert len(known) > 81 and known[0]


def test_tiles_shrink_until_they_fit_the_device(quarter, monkeypatch):
    run = quarter.run

    def cramped(image, hole):
        if image.shape[-1] > 400:
            raise OutOfMemoryError("out of memory")
        return run(image, hole)

    monkeypatch.setattr(quarter, "run", cramped)
    hole = np.zeros((700, 700), bool)
    hole[10:690:60] = True
    filled = inpaint(np.zeros((700, 700), np.uint8), hole, quarter, grain_share=0)
    assert (filled[hole] == 64).all()
    monkeypatch.setattr(filling, "SMALLEST_TILE_PX", 400)
    with pytest.raises(OutOfMemoryError):
        inpaint(np.zeros((700, 700), np.uint8), hole, quarter)


def test_what_the_hole_holds_does_not_matter(quarter, rng):
    image = rng.random((64, 64, 3), np.float32)
    hole = np.zeros((64, 64), bool)
    hole[20:30, 20:30] = True
    other = image.copy()
    other[25, 25] = 1e6  # a hot pixel would be taken for white
    np.testing.assert_array_equal(inpaint(image, hole, quarter), inpaint(other, hole, quarter))


def test_what_is_hidden_does_not_matter_but_where_nothing_else_is_known(photo):
    image, hidden, hole = photo[:128, :160].copy(), np.zeros((128, 160), bool), None
    hidden[:, 90:] = True
    hole = np.zeros_like(hidden)
    hole[20:100, 84:87] = True
    other = np.where(hidden[..., None], 0, image).astype(np.uint8)
    model = load_model(task="inpaint", device="cpu")
    filled, again = (inpaint(each, hole, model, hidden=hidden) for each in (image, other))
    np.testing.assert_array_equal(filled[hole], again[hole])
    np.testing.assert_array_equal(again[hidden], other[hidden])
    assert np.abs(filled[hole].astype(int) - image[hole]).mean() < 12
    np.testing.assert_array_equal(
        inpaint(image, hole, model, hidden=~hole), inpaint(image, hole, model)
    )
    transparent = Picture(np.dstack([other, np.where(hidden, 0, 255)]).astype(np.uint8), "RGBA", "")
    Inpainting().fill(transparent, hole.astype(np.float32), model)
    np.testing.assert_array_equal(transparent.pixels[..., :3], again)


def test_empty_and_full_holes(quarter, photo):
    empty = np.zeros(photo.shape[:2], bool)
    np.testing.assert_array_equal(inpaint(photo, empty, quarter), photo)
    assert inpaint(photo[:0], empty[:0], quarter).size == 0
    with pytest.raises(ArgumentError, match="covers the whole image"):
        inpaint(photo, ~empty, quarter)


@pytest.mark.parametrize(
    ("image", "hole", "options", "error"),
    [
        (np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5), bool), {}, ShapeError),
        (np.zeros((4, 4, 2), np.uint8), np.zeros((4, 4), bool), {}, ShapeError),
        (np.full((4, 4), np.nan, np.float32), np.zeros((4, 4), bool), {}, InputError),
        (np.zeros((4, 4), np.uint8), np.zeros((4, 4), bool), {"grain_share": 2}, ArgumentError),
        (np.zeros((4, 4), np.uint8), np.zeros((4, 4), bool), {"feather_px": -1}, ArgumentError),
        (np.zeros((4, 4), np.uint8), np.full((4, 4), 255, np.uint8), {}, ArgumentError),
        (np.zeros((4, 4), np.uint8), np.zeros((4, 4), bool), {"feather_px": np.nan}, ArgumentError),
        (np.zeros((4, 4), np.uint8), np.zeros((4, 4), bool), {"grain_share": "a"}, ArgumentError),
        (np.zeros((4, 4), np.uint8), [[False] * 4] * 4, {}, ShapeError),
    ],
)
def test_bad_arguments_are_refused(quarter, image, hole, options, error):
    with pytest.raises(error):
        inpaint(image, hole, quarter, **options)


def test_models_that_fill_nothing_or_nan_are_refused(identity):
    image, hole = np.zeros((16, 16, 3), np.uint8), np.eye(16, dtype=bool)
    with pytest.raises(ModelError, match="a model to detect, not denoise"):
        denoise(image, model=load_model(task="detect", device="cpu"))
    with pytest.raises(ModelError, match="not a model for inpainting"):
        inpaint(image, hole, identity)
    nodes = [
        helper.make_node("Sub", ["hole", "hole"], ["zero"]),
        helper.make_node("Mul", ["image", "zero"], ["black"]),
        helper.make_node("Div", ["black", "zero"], ["restored"]),
    ]
    with pytest.raises(ModelError, match="NaN"):
        inpaint(image, hole, Model(tiny_onnx(nodes, inputs=("image", "hole")), device="cpu"))
