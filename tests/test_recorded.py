import numpy as np
import pytest
import torch

from denoiser.training import recorded

RAMP = np.linspace(60, 180, 640, dtype=np.float32)[:, None, None]


def test_the_noise_is_left_when_what_is_seen_is_taken_off():
    noise = np.random.default_rng(0).normal(0, 5, (640, 640, 3))
    found = recorded.record(np.rint(RAMP + noise).astype(np.uint8))
    assert found.dtype == np.int8 and found.shape == (recorded.FEWEST, 64, 64, 3)
    assert np.abs(found.astype(float).mean((1, 2))).max() < 0.1 * recorded.STEPS
    assert np.sqrt(np.mean(found.astype(float) ** 2)) == pytest.approx(recorded.STEPS, rel=0.01)
    neighbours = np.mean(found[:, 1:].astype(float) * found[:, :-1]) / np.var(found)
    assert abs(neighbours) < 0.02  # as white as it was


def test_calm_places_are_taken_and_photographs_without_them_refused():
    rng = np.random.default_rng(0)
    loud = np.where(np.arange(640)[:, None] < 320, 4, 20)[..., None]
    picture = np.rint(np.clip(RAMP + loud * rng.normal(0, 1, (640, 640, 3)), 5, 249))
    assert recorded.record(picture.astype(np.uint8)).std() > 0
    assert recorded.record(np.full((640, 640, 3), 128, np.uint8)) is None  # no noise at all
    assert recorded.record(np.full((640, 640, 3), 255, np.uint8)) is None
    assert recorded.record(picture[:80, :80].astype(np.uint8)) is None


def test_fields_of_all_cameras_are_sewn_without_a_seam():
    fields = recorded.fields(torch.device("cpu"))
    assert fields.shape[1:] == (3, recorded.FIELD_PX, recorded.FIELD_PX)
    power = fields.square().mean((1, 2, 3))
    torch.testing.assert_close(power, torch.ones(len(fields)))
    half = recorded.SQUARE_PX // 2
    by_column = fields.square().mean((0, 1, 2)).reshape(-1, half // 8, 8).mean((0, 2))
    assert by_column.max() / by_column.min() < 1.1  # even, but for the grid of JPEG's blocks
    border = (fields[..., 0] * fields[..., -1]).mean()  # a torus: neighbours across it
    inside = (fields[..., 8::8] * fields[..., 7:-1:8]).mean()
    assert abs(border - inside) < 0.15
