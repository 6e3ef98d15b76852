"""Plan, cut and blend tiles: pure numpy.

A tile's window is read with `halo` pixels of context that are thrown away, so that what is kept
does not depend on the tiling; neighbours share `overlap` pixels that are blended linearly. Windows
start on multiples of the stride: only then does a network with downsampling see the same grid in
every tile as in the whole image.
"""

import dataclasses
import itertools
import math

import numpy as np

from denoiser.errors import ArgumentError

LARGEST_DEFAULT_PX = 2240
"""Side of the largest tile that nobody asked for: memory grows with its square."""


@dataclasses.dataclass(frozen=True)
class Span:
    """One tile along one axis, in pixels of the image padded to the stride."""

    start: int
    stop: int
    """The window that the network sees: multiples of the stride."""
    core_start: int
    core_stop: int
    """The part that is kept, halo removed."""
    fade_in: int
    fade_out: int
    """Pixels at either end of the core that are blended with the neighbour's."""

    @property
    def window(self) -> slice:
        """What the network sees."""
        return slice(self.start, self.stop)

    @property
    def core(self) -> slice:
        """What is kept, in the image."""
        return slice(self.core_start, self.core_stop)

    @property
    def inner(self) -> slice:
        """What is kept, in the window."""
        return slice(self.core_start - self.start, self.core_stop - self.start)

    def weights(self) -> np.ndarray:
        """Blending weights of the core, (core_stop - core_start,) float32 in (0, 1].

        Weights of neighbours add up to one.
        """
        weights = np.ones(self.core_stop - self.core_start, np.float32)
        weights[: self.fade_in] = _ramp(self.fade_in)
        weights[weights.size - self.fade_out :] = 1 - _ramp(self.fade_out)
        return weights

    def fade(self, core: np.ndarray) -> None:
        """Weigh the ends of the last axis of a core, in place; its end may be cut off."""
        weights = self.weights()[: core.shape[-1]]
        last = self.core_stop - self.core_start - self.fade_out
        for ends in (slice(0, self.fade_in), slice(last, None)):
            core[..., ends] *= weights[ends]


def _ramp(length: int) -> np.ndarray:
    return (np.arange(length, dtype=np.float32) + 0.5) / max(length, 1)


def padded(length: int, stride: int) -> int:
    """Round a length up to a multiple of the stride."""
    return math.ceil(length / stride) * stride


def default_tile_px(halo_px: int, overlap_px: int, stride: int) -> int:
    """Smallest tile that recomputes at most 14 % of its pixels, or `LARGEST_DEFAULT_PX`.

    A window of side 28 m with margins of m on each side keeps (26 / 28)^2 = 86 % of its pixels.
    """
    wanted = max(1024, 28 * _margin_px(halo_px, overlap_px, stride))
    least = smallest_tile_px(halo_px, overlap_px, stride)
    return max(least, min(wanted, LARGEST_DEFAULT_PX))


def smallest_tile_px(halo_px: int, overlap_px: int, stride: int) -> int:
    """Smallest tile whose windows reach into their neighbours only.

    Two tiles on, the image may be overwritten.
    """
    return max(4 * _margin_px(halo_px, overlap_px, stride), 2 * stride, 2 * overlap_px) + stride


def _margin_px(halo_px: int, overlap_px: int, stride: int) -> int:
    """Pixels by which a window reaches over the border between two tiles."""
    return padded(halo_px + overlap_px // 2, stride)


def plan(length: int, tile_px: int, halo_px: int, overlap_px: int, stride: int) -> list[Span]:
    """Divide one axis into windows of at most `tile_px`, as equal as the stride allows.

    Args:
        length: Extent of the image along the axis.
        tile_px: Largest window; the image's own padded length if that is smaller.
        halo_px: Context to discard on each inner side of a window.
        overlap_px: Blended pixels between neighbours; even.
        stride: Windows start and stop on its multiples.

    Returns:
        Spans in order; their cores cover [0, padded length) and overlap by `overlap_px`.

    Raises:
        ArgumentError: `tile_px` leaves nothing between the halos.
    """
    total = padded(length, stride)
    if total <= tile_px:
        return [Span(0, total, 0, total, 0, 0)]
    margin, half = _margin_px(halo_px, overlap_px, stride), overlap_px // 2
    step = (tile_px - 2 * margin) // stride * stride
    least = smallest_tile_px(halo_px, overlap_px, stride)
    if tile_px < least:
        raise ArgumentError(f"tiles of {tile_px} pixels are too small: use at least {least}")
    count = math.ceil(total / step)
    borders = [total // stride * index // count * stride for index in range(count + 1)]
    spans = []
    for index, (begin, end) in enumerate(itertools.pairwise(borders)):
        first, last = index == 0, index == count - 1
        spans.append(
            Span(
                start=0 if first else max(0, begin - margin),
                stop=total if last else min(total, end + margin),
                core_start=0 if first else begin - half,
                core_stop=total if last else end + half,
                fade_in=0 if first else 2 * half,
                fade_out=0 if last else 2 * half,
            )
        )
    return spans


def to_batch(windows: np.ndarray, white: np.ndarray, row: Span, column: Span) -> np.ndarray:
    """Turn windows (N, h, w, C), grey or colour, into (N, 3, H, W) float32 in [0, 1].

    What the image's lower or right border cut off is mirrored.
    """
    below = row.stop - row.start - windows.shape[1]
    beside = column.stop - column.start - windows.shape[2]
    if below or beside:
        windows = np.pad(windows, ((0, 0), (0, below), (0, beside), (0, 0)), mode="symmetric")
    planes = windows.transpose(0, 3, 1, 2).astype(np.float32, order="C")
    planes /= white
    return planes if planes.shape[1] == 3 else np.repeat(planes, 3, 1)
