"""Noise of real cameras: cut out of calm places of photographs, and sewn together again."""

import functools
from importlib import resources

import numpy as np
import torch
from torch import Tensor

SQUARE_PX = 64
FIELD_PX = 512
FILE = "recorded.npz"
"""Beside this module, written by scripts/record_noise.py: of each photograph what `record` cut."""
STEPS = 16
"""What a standard deviation is stored as."""
CALMEST, FEWEST, MOST = 0.02, 12, 60
"""Share of a photograph's squares that is taken, and how many at least and at most."""
LEAST_LUMA = 0.5
"""Standard deviation below which a place shows rounding rather than noise, 0-255."""


def record(photograph: np.ndarray) -> np.ndarray | None:
    """Cut the noise out of the calmest squares of a photograph.

    A square's slow change, a quadratic trend of each channel, is taken off; dark and bright ones,
    and what clips, are left out.

    Args:
        photograph: (H, W, 3) uint8, not scaled down.

    Returns:
        (n, 64, 64, 3) int8 of mean square `STEPS`^2 together; None if fewer than `FEWEST` places
        are calm.
    """
    axis = np.linspace(-1, 1, SQUARE_PX, dtype=np.float32)
    x, y = (plane.ravel() for plane in np.meshgrid(axis, axis))
    trends = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], 1)  # (64 * 64, 6)
    fit = np.linalg.pinv(trends)
    found = []
    height, width = photograph.shape[:2]
    for top in range(0, height - SQUARE_PX + 1, SQUARE_PX):
        for left in range(0, width - SQUARE_PX + 1, SQUARE_PX):
            square = photograph[top : top + SQUARE_PX, left : left + SQUARE_PX]
            if not 30 < square.mean() < 220 or square.min() < 4 or square.max() > 250:
                continue
            pixels = square.reshape(-1, 3).astype(np.float32)
            noise = (pixels - trends @ (fit @ pixels)).reshape(square.shape)
            luma = noise.mean(2).std()
            if luma > LEAST_LUMA:
                found.append((luma, noise))
    found.sort(key=lambda item: item[0])
    count = min(max(FEWEST, round(CALMEST * len(found))), MOST)
    if len(found) < count:
        return None
    squares = np.stack([noise for _, noise in found[:count]])
    scaled: np.ndarray = np.rint(squares * (STEPS / squares.std())).clip(-127, 127)
    return scaled.astype(np.int8)


@functools.cache
def fields(device: torch.device) -> Tensor:
    """Sew the recorded squares of each photograph together, overlapping by half, on a torus.

    Sine windows keep the power; squares are mirrored and turned at random, the same at every call.

    Returns:
        (photographs, 3, 512, 512) float32 of mean square 1.
    """
    rng = np.random.default_rng(0)
    window = np.sin(np.pi * (np.arange(SQUARE_PX) + 0.5) / SQUARE_PX).astype(np.float32)
    window = window[:, None, None] * window[:, None]
    with resources.files(__package__).joinpath(FILE).open("rb") as file:
        photographs = [squares.astype(np.float32) for squares in np.load(file).values()]
    sewn = np.zeros((len(photographs), FIELD_PX, FIELD_PX, 3), np.float32)
    for field, squares in zip(sewn, photographs, strict=True):
        for top in range(0, FIELD_PX, SQUARE_PX // 2):
            for left in range(0, FIELD_PX, SQUARE_PX // 2):
                square = squares[rng.integers(len(squares))]
                square = square[:: int(rng.choice((-1, 1)))]
                square = np.rot90(square, int(rng.integers(4))) * window
                rows, columns = (
                    np.arange(start, start + SQUARE_PX) % FIELD_PX for start in (top, left)
                )
                field[np.ix_(rows, columns)] += square
        field /= np.sqrt(np.mean(field**2))
    return torch.from_numpy(sewn.transpose(0, 3, 1, 2).copy()).to(device)
