import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from denoiser import tiles
from denoiser.errors import ArgumentError

lengths = st.integers(1, 5000)
strides = st.sampled_from([1, 2, 8, 16])
halos = st.integers(0, 64)


@given(lengths, st.integers(320, 1500), halos, st.sampled_from([0, 2, 16]), strides)
def test_windows_are_aligned_bounded_and_weights_add_up_to_one(length, tile, halo, overlap, stride):
    spans = tiles.plan(length, tile, halo, overlap, stride)
    total = tiles.padded(length, stride)
    weight = np.zeros(total)
    for span in spans:
        assert span.start % stride == 0 and span.stop % stride == 0
        assert 0 <= span.start <= span.core_start < span.core_stop <= span.stop <= total
        assert span.stop - span.start <= tile or len(spans) == 1
        assert span.start == 0 or span.core_start - span.start >= halo
        assert span.stop == total or span.stop - span.core_stop >= halo
        weight[span.core_start : span.core_stop] += span.weights()
    np.testing.assert_allclose(weight, 1, atol=1e-6)


@pytest.mark.parametrize(("halo", "most"), [(16, 0.15), (32, 0.15), (48, 0.15), (96, 0.2)])
def test_recomputed_pixels_are_a_small_part_of_the_work(halo, most):
    stride, overlap = 8, 16
    tile = tiles.default_tile_px(halo, overlap, stride)
    for length in range(64, 12_000, 8):
        spans = tiles.plan(length, tile, halo, overlap, stride)
        computed = sum(span.stop - span.start for span in spans)
        assert 1 - (length / computed) ** 2 <= most, length


@pytest.mark.parametrize("halo", [200, 700])
def test_default_tiles_leave_room_between_wide_halos(halo):
    tile = tiles.default_tile_px(halo, 16, 8)
    assert tile >= tiles.LARGEST_DEFAULT_PX
    assert len(tiles.plan(12_000, tile, halo, 16, 8)) > 1


def test_tile_without_room_between_halos_is_refused():
    with pytest.raises(ArgumentError, match="use at least"):
        tiles.plan(1000, 64, 32, 16, 8)
