"""Filling holes in arrays: only around them anything is computed, and only in them changed."""

import dataclasses
from collections import deque
from collections.abc import Iterator

import cv2
import numpy as np

from denoiser import grain, tiles
from denoiser.arrays import Progress, check_image, fit, is_share
from denoiser.engine import Model
from denoiser.errors import ArgumentError, ModelError, OutOfMemoryError, ShapeError
from denoiser.picture import LARGEST_FLOAT, white_of_light

CELL_PX = 32
"""Holes nearer than one to two cells are filled together."""
LARGEST_CELLS = 64
"""Rows and columns of cells that are filled at once; what comes next builds on it."""
CONTEXT_PX, LARGEST_CONTEXT_PX = 64, 256
"""Least and most that is looked at around a hole; in between half its size."""
DIRECT_PX = 3
"""Half width up to which a hole is filled directly; wider ones first at half the resolution. Chosen
on validation pictures, see scripts/LOG.md."""
TILE_PX, SMALLEST_TILE_PX, OVERLAP_PX = 768, 320, 32
GUESS = 0.5
"""Value of a hole that holds a first guess, as the model was trained."""


def inpaint(
    image: np.ndarray,
    hole: np.ndarray,
    model: Model,
    *,
    feather_px: float = 0.0,
    grain_share: float = 1.0,
    hidden: np.ndarray | None = None,
    out: np.ndarray | None = None,
    progress: Progress | None = None,
) -> np.ndarray:
    """Fill the hole; keep every other pixel bit for bit.

    Args:
        image: (H, W) or (H, W, C), C = 1 or 3; uint8, uint16, or floating point with white at 1
            (or where `picture.white_of_light` finds it).
        hole: (H, W) bool, True where pixels are replaced; or float, how much of the filling each
            pixel gets, 0-1. Whatever is above 0 counts as unknown.
        model: A loaded model whose contract lists `hole`.
        feather_px: Width of the edge, inside the hole, over which filling and image are blended;
            at most two thirds of the way to a hole's middle, or what it hides would stay (in
            thin parts of a wide hole it may).
        grain_share: How much of the noise around the hole is put into the filling, 0-1.
        hidden: (H, W) bool, True where colours mean nothing, as under full transparency: they are
            kept and, if anything else is known, not looked at.
        out: Array for the result, of the shape and dtype of `image`; may be `image` itself.
        progress: Told after each hole.

    Returns:
        The filled image, of the shape and dtype of `image`.

    Raises:
        ShapeError: `image` or `out` has an unsupported shape or dtype, or `hole` is not (H, W).
        ArgumentError: An argument is out of range, or nothing lies outside the hole.
        InputError: `image` holds NaN or infinite values.
        ModelError: The model fills no holes, or returned NaN.
        OutOfMemoryError: Not even small tiles fit the device.
    """
    check_image(image, out)
    if "hole" not in model.contract.inputs:
        raise ModelError(f"{model.contract.name} is not a model for inpainting")
    if not isinstance(hole, np.ndarray) or hole.dtype.kind not in "biuf":
        raise ShapeError("hole must be an array of bool or numbers")
    if hole.shape != image.shape[:2]:
        raise ShapeError(f"hole must be {image.shape[:2]}, not {hole.shape}")
    if not is_share(grain_share):
        raise ArgumentError(f"grain must lie in 0-1, not {grain_share!r}")
    if not isinstance(feather_px, int | float | np.number) or not 0 <= feather_px < np.inf:
        raise ArgumentError(f"feather must be a number of pixels, not {feather_px!r}")
    if hole.size and not (hole.min() >= 0 and hole.max() <= 1):
        raise ArgumentError("hole must be boolean, or lie in 0-1")
    if out is None:
        out = image.copy()
    elif out is not image:
        out[...] = image
    unknown = hole > 0
    if not unknown.any():
        return out
    if unknown.all():
        raise ArgumentError("the hole covers the whole image: nothing is left to fill it from")
    groups, index, waiting = deque(_groups(unknown)), 0, 0
    total, done = int(unknown.sum()), 0
    hidden = np.zeros_like(unknown) if hidden is None else hidden & ~unknown
    unknown |= hidden
    source = out[..., None] if out.ndim == 2 else out
    white = white_of_light(source[~unknown] if image.dtype.kind == "f" else image)
    while groups:
        group = groups.popleft()
        window = group.window
        if unknown[window].all():  # of a huge hole: what lies nearer to its edge comes first
            groups.append(group)
            waiting += 1
            if waiting >= len(groups):  # and all that is near is hidden
                unknown &= ~hidden
            continue
        waiting = 0
        share = _share(hole[window], group.own, feather_px)
        light = source[window].astype(np.float32) / np.float32(white)
        np.clip(light, -LARGEST_FLOAT, LARGEST_FLOAT, out=light)  # no light is beyond
        filled = _fill_group(light, unknown[window], model)
        if grain_share:
            filled = grain.match(filled, light, unknown[window], grain_share, index)
            index += 1
        _blend(source[window], filled * np.float32(white), share)
        unknown[window] &= ~group.own
        done += int(group.own.sum())
        if progress:
            progress(done, total)
    return out


@dataclasses.dataclass
class _Group:
    """Holes that are filled together."""

    window: tuple[slice, slice]
    """What is looked at, rows and columns."""
    own: np.ndarray
    """(h, w) bool, the pixels of the window that belong to these holes."""


def _groups(unknown: np.ndarray) -> Iterator[_Group]:
    """Group holes by the cells of a grid that touch, in parts of at most `LARGEST_CELLS`."""
    padding = [(0, -length % CELL_PX) for length in unknown.shape]
    cells = np.pad(unknown, padding)
    rows, columns = cells.shape[0] // CELL_PX, cells.shape[1] // CELL_PX
    occupied = cells.reshape(rows, CELL_PX, columns, CELL_PX).any((1, 3))
    count, labels, boxes, _ = cv2.connectedComponentsWithStats(occupied.astype(np.uint8))
    for label in range(1, count):
        x, y, across, down = (int(value) for value in boxes[label, :4])
        for top in range(y, y + down, LARGEST_CELLS):
            for left in range(x, x + across, LARGEST_CELLS):
                stop = (min(y + down, top + LARGEST_CELLS), min(x + across, left + LARGEST_CELLS))
                mine = labels[top : stop[0], left : stop[1]] == label
                if mine.any():
                    yield _group(unknown, mine, (top * CELL_PX, left * CELL_PX))


def _group(unknown: np.ndarray, cells: np.ndarray, corner: tuple[int, int]) -> _Group:
    """Find the window around the holes in some cells, whose first pixel is `corner`."""
    inside = cells.repeat(CELL_PX, 0).repeat(CELL_PX, 1)
    here = unknown[corner[0] :, corner[1] :][: inside.shape[0], : inside.shape[1]]
    inside = here & inside[: here.shape[0], : here.shape[1]]
    window, margins = [], []
    for axis, begin in enumerate(corner):
        places = np.flatnonzero(inside.any(1 - axis))
        first, last = int(places[0]), int(places[-1]) + 1
        context = min(max(CONTEXT_PX, (last - first) // 2), LARGEST_CONTEXT_PX)
        start = max(0, begin + first - context)
        window.append(slice(start, min(unknown.shape[axis], begin + last + context)))
        margins.append(begin - start)
    own = np.zeros([span.stop - span.start for span in window], bool)
    _paste(own, inside, margins)
    return _Group((window[0], window[1]), own)


def _paste(target: np.ndarray, patch: np.ndarray, at: list[int]) -> None:
    """Put a patch at a place, which may be negative; what falls outside is lost."""
    here, there = [], []
    for place, length, limit in zip(at, patch.shape, target.shape, strict=True):
        start, stop = max(0, place), min(limit, place + length)
        here.append(slice(start, stop))
        there.append(slice(start - place, stop - place))
    target[tuple(here)] = patch[tuple(there)]


def _share(hole: np.ndarray, own: np.ndarray, feather_px: float) -> np.ndarray:
    """How much of the filling each pixel gets, (h, w) float32; 0 outside."""
    share = np.where(own, hole, 0).astype(np.float32)
    if feather_px:
        unknown = (hole > 0).astype(np.uint8)
        depth = cv2.distanceTransform(unknown, cv2.DIST_L2, 5)
        count, labels = cv2.connectedComponents(unknown)
        deepest = np.zeros(count, np.float32)
        np.maximum.at(deepest, labels, depth)
        width = np.minimum(np.float32(feather_px + 1), np.maximum(deepest * 2 / 3, 1))
        share *= np.clip(depth / width[labels], 0, 1)
    return share


def _blend(pixels: np.ndarray, filled: np.ndarray, share: np.ndarray) -> None:
    """Write the filling into (h, w, C) pixels where its share is above 0."""
    inside = share > 0
    weight = share[inside][:, None]
    mixed = pixels[inside] * (1 - weight) + filled[inside] * weight
    fit(mixed, pixels.dtype)
    pixels[inside] = mixed.astype(pixels.dtype)


def _fill_group(light: np.ndarray, unknown: np.ndarray, model: Model) -> np.ndarray:
    """Fill what is unknown in a window.

    Args:
        light: (h, w, C) float32 in [0, 1].
        unknown: (h, w) bool.
        model: What fills.

    Returns:
        (h, w, C) float32 in [0, 1].
    """
    channels = light.shape[2]
    filled = _fill(np.repeat(light, 3, 2) if channels == 1 else light, unknown, model)
    return filled.mean(2, keepdims=True) if channels == 1 else filled


def _fill(image: np.ndarray, unknown: np.ndarray, model: Model) -> np.ndarray:
    """Fill (h, w, 3) float32, wide holes from coarse to fine."""
    value, inside = 1.0, np.full_like(image, 0.5)
    depth = cv2.distanceTransform(unknown.astype(np.uint8), cv2.DIST_L2, 5)
    if depth.max() > DIRECT_PX:
        coarse, coarse_unknown = _halved(image, unknown)
        if not coarse_unknown.all():
            guess = _fill(coarse, coarse_unknown, model)
            size = (2 * guess.shape[1], 2 * guess.shape[0])
            fine = cv2.resize(guess, size, interpolation=cv2.INTER_LINEAR)
            inside, value = fine[: image.shape[0], : image.shape[1]], GUESS
    image = np.where(unknown[..., None], inside, image)
    hole = unknown.astype(np.float32) * np.float32(value)
    halo = min(model.contract.halo, TILE_PX // 6)
    least_px = tiles.smallest_tile_px(halo, OVERLAP_PX, model.contract.stride)
    tile_px = max(TILE_PX, 6 * model.contract.halo, least_px)
    while True:
        try:
            return _run_tiles(image, hole, model, tile_px)
        except OutOfMemoryError:
            tile_px //= 2
            if tile_px < max(SMALLEST_TILE_PX, least_px):
                raise


def _halved(image: np.ndarray, unknown: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Halve the resolution; a pixel is known if half of what it covers is."""
    even = [(0, length % 2) for length in unknown.shape]
    known = 1 - np.pad(unknown, even, mode="edge").astype(np.float32)
    image = np.pad(image, [*even, (0, 0)], mode="edge") * known[..., None]

    def mean(values: np.ndarray) -> np.ndarray:
        height, width = values.shape[:2]
        cells = values.reshape(height // 2, 2, width // 2, 2, -1)
        return np.asarray(cells.mean((1, 3)))

    weight = mean(known)
    return mean(image) / np.maximum(weight, 1e-6), weight[..., 0] < 0.5


def _run_tiles(image: np.ndarray, hole: np.ndarray, model: Model, tile_px: int) -> np.ndarray:
    """Run the model on the tiles that have holes, blended where they overlap."""
    height, width = hole.shape
    stride = model.contract.stride
    halo = min(model.contract.halo, tile_px // 6)  # less context rather than no picture
    row_spans, column_spans = (
        tiles.plan(length, tile_px, halo, OVERLAP_PX, stride) for length in hole.shape
    )
    size = [tiles.padded(length, stride) for length in hole.shape]
    padding = [(0, size[0] - height), (0, size[1] - width)]
    image = np.pad(image, [*padding, (0, 0)], mode="symmetric")
    hole = np.pad(hole, padding, mode="symmetric")
    out = np.zeros_like(image)
    for row in row_spans:
        for column in column_spans:
            window, core = (row.window, column.window), (row.core, column.core)
            filled = image[core]
            if hole[core].any():
                batch = np.ascontiguousarray(image[window].transpose(2, 0, 1)[None])
                restored = model.run(batch, np.ascontiguousarray(hole[window][None, None]))
                filled = restored[0].transpose(1, 2, 0)[row.inner, column.inner]
            out[core] += filled * row.weights()[:, None, None] * column.weights()[:, None]
    return out[:height, :width]
