"""Synthesis of holes for inpainting, on the training device."""

import dataclasses
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from denoiser.training.checks import check_types
from denoiser.training.draw import Draw, Range

SEGMENTS = 24
"""Most straight pieces that a hole of lines or specks is made of."""
THIN = ("scratches", "specks", "text")
OFTEN = 0.6
"""Share of the crops that get a kind of hole besides the one that is drawn for them."""
GUESS = 0.5
"""Value of a hole whose pixels hold a first guess, which a coarser scale made."""


@dataclasses.dataclass(frozen=True)
class Holes:
    """What a recipe cuts out of its crops: of half of them thin things, of half of them thick."""

    kinds: tuple[str, ...] = ("strokes", "scratches", "specks", "text", "blobs", "boxes")
    width_px: Range = (2, 64)
    """Width of strokes and sides of boxes, drawn uniformly in the logarithm."""
    mirrored: bool = False
    """Whether thin holes are there four times, mirrored: more to learn from a crop."""
    largest_share: float = 0.4
    """Of a crop; what exceeds it stays outside a window of that size."""
    guessed: float = 0.0
    """Share of the crops whose hole holds a first guess, see `first_guess`."""

    def __post_init__(self) -> None:
        """Reject impossible values.

        Raises:
            ValueError: A kind is unknown, or a value lies outside its limits.
        """
        check_types(self)
        if unknown := set(self.kinds) - set(KINDS):
            raise ValueError(f"unknown kind of hole {min(unknown)!r}; known: {', '.join(KINDS)}")
        if not 1 <= self.width_px[0] <= self.width_px[1]:
            raise ValueError("width_px must be [low, high] with 1 <= low <= high")
        if not 0 < self.largest_share <= 1 or not 0 <= self.guessed <= 1:
            raise ValueError("largest_share and guessed must lie in 0-1")


def draw_holes(batch: Tensor, options: Holes, generator: torch.Generator) -> Tensor:
    """Draw a hole for every crop.

    Args:
        batch: (N, C, H, W), whose crops get holes.
        options: What kinds.
        generator: Source of randomness, on the device of `batch`.

    Returns:
        (N, 1, H, W) float32, 1 in the hole, else 0; no hole is empty.
    """
    draw = Draw(batch, generator)
    holes = torch.zeros_like(batch[:, :1])
    sorts = [[kind for kind in options.kinds if (kind in THIN) == thin] for thin in (True, False)]
    share = draw.uniform((0, sum(map(bool, sorts))))  # of the first sort that there is up to 1
    for index, sort in enumerate(filter(None, sorts)):
        mine = (share >= index) & (share <= index + 1)
        surely = draw.uniform((0, len(sort)))
        for place, kind in enumerate(sort):
            chosen = (surely >= place) & (surely <= place + 1)
            chosen |= draw.uniform((0, 1)) < OFTEN
            holes = torch.maximum(holes, KINDS[kind](draw, options) * (chosen & mine))
        if options.mirrored and sort[0] in THIN:
            for axis in (2, 3):
                holes = torch.maximum(holes, holes.flip(axis) * mine)
    height, width = holes.shape[2:]
    largest = math.sqrt(options.largest_share)
    window = _box(draw, largest * height, largest * width)
    too_large = holes.mean((2, 3), keepdim=True) > options.largest_share
    holes = torch.where(too_large, holes * window, holes)
    empty = holes.amax((2, 3), keepdim=True) == 0
    return torch.where(empty, _box(draw, 0.1 * height, 0.1 * width), holes)


def draw_defects(batch: Tensor, generator: torch.Generator) -> Tensor:
    """Draw scratches and dust, each in three crops of four.

    Args:
        batch: (N, C, H, W), whose crops get them.
        generator: Source of randomness, on the device of `batch`.

    Returns:
        (N, 2, H, W) float32: scratches, dust; 1 where they are, else 0.
    """
    draw = Draw(batch, generator)
    layers = [kind(draw, Holes()) * (draw.uniform((0, 1)) < 0.75) for kind in (_scratches, _specks)]
    return torch.cat(layers, 1)


def cut_out(image: Tensor, hole: Tensor, inside: Tensor | float = 0.5) -> Tensor:
    """Replace what is in the hole, (N, 1, H, W), of (N, 3, H, W)."""
    return image + hole * (inside - image)


def first_guess(image: Tensor, hole: Tensor, fill: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Fill the hole at half the resolution, as `filling` does with wide ones.

    Args:
        image: (N, 3, H, W), H and W even.
        hole: (N, 1, H, W), 1 in the hole, else 0.
        fill: Takes a picture with its hole cut out, and the hole.

    Returns:
        (N, 3, H, W), of use in the hole only.
    """
    known = 1 - hole
    share = F.avg_pool2d(known, 2)
    coarse = F.avg_pool2d(image * known, 2) / share.clamp(min=1e-6)
    coarse_hole = (share < 0.5).float()
    filled = fill(cut_out(coarse, coarse_hole), coarse_hole)
    return F.interpolate(filled, scale_factor=2, mode="bilinear", align_corners=False)


def _lines(draw: Draw, ends: Tensor, radius: Tensor) -> Tensor:
    """Union of thick lines.

    Args:
        draw: Of the crops.
        ends: (N, K, 2, 2) ends of K lines, y and x, in pixels.
        radius: (N, K) half width; a line of negative radius is left out.

    Returns:
        (N, 1, H, W), 1 where a line is.
    """
    height, width = draw.batch.shape[2:]
    y = torch.arange(height, device=ends.device)[None, :, None] + 0.5
    x = torch.arange(width, device=ends.device)[None, None, :] + 0.5
    inside = torch.zeros(len(ends), height, width, dtype=torch.bool, device=ends.device)
    for line, half in zip(ends.unbind(1), radius.unbind(1), strict=True):
        (from_y, from_x), (to_y, to_x) = (
            end[:, :, None, None].unbind(1) for end in line.unbind(1)
        )  # (N, 1, 1)
        along_y, along_x = to_y - from_y, to_x - from_x
        length2 = (along_y**2 + along_x**2).clamp(min=1e-6)
        place = (((y - from_y) * along_y + (x - from_x) * along_x) / length2).clamp(0, 1)
        away2 = (y - from_y - place * along_y) ** 2 + (x - from_x - place * along_x) ** 2
        inside |= (away2 <= half[:, None, None] ** 2) & (half[:, None, None] > 0)
    return inside[:, None].float()


def _numbers(draw: Draw, bounds: Range, count: int = SEGMENTS) -> Tensor:
    """Uniform numbers, (N, count)."""
    return torch.cat([draw.uniform(bounds) for _ in range(count)], 1).flatten(1)


def _log_numbers(draw: Draw, bounds: Range, count: int = 1) -> Tensor:
    """Numbers that are uniform in the logarithm, (N, count)."""
    return _numbers(draw, (math.log(bounds[0]), math.log(bounds[1])), count).exp()


def _walk(draw: Draw, step_px: Tensor, turn: Range) -> Tensor:
    """A path of `SEGMENTS` pieces from a random place, (N, K, 2, 2)."""
    height, width = draw.batch.shape[2:]
    start = torch.stack([_numbers(draw, (0, side), 1) for side in (height, width)], 2)
    angle = _numbers(draw, (0, 2 * math.pi), 1) + _numbers(draw, turn).cumsum(1)
    way = step_px[..., None] * torch.stack([angle.sin(), angle.cos()], 2)
    points = torch.cat([start, start + way.cumsum(1)], 1)  # (N, K + 1, 2)
    return torch.stack([points[:, :-1], points[:, 1:]], 2)


def _first(draw: Draw, radius: Tensor, share: Range) -> Tensor:
    """Leave out the last pieces of each crop: (N, K) of half widths, negative for those."""
    radius = radius.expand(-1, SEGMENTS)
    rank = torch.arange(SEGMENTS, device=radius.device) / SEGMENTS
    return torch.where(rank < _numbers(draw, share, 1), radius, -torch.ones_like(radius))


def _strokes(draw: Draw, options: Holes) -> Tensor:
    """A wandering brush."""
    width = _log_numbers(draw, options.width_px)
    path = _walk(draw, _numbers(draw, (4, 24)), (-0.8, 0.8))
    return _lines(draw, path, _first(draw, width / 2, (0.05, 1)))


def _scratches(draw: Draw, options: Holes) -> Tensor:
    """A thin, nearly straight line."""
    path = _walk(draw, _numbers(draw, (6, 24)), (-0.06, 0.06))
    return _lines(draw, path, _first(draw, _numbers(draw, (0.6, 2.5), 1), (0.2, 1)))


def _specks(draw: Draw, options: Holes) -> Tensor:
    """Grains of dust, and short hairs."""
    height, width = draw.batch.shape[2:]
    start = torch.stack([_numbers(draw, (0, side)) for side in (height, width)], 2)
    way = torch.stack([_numbers(draw, (-4, 4)) for _ in range(2)], 2)
    radius = _log_numbers(draw, (0.7, 5), SEGMENTS)
    return _lines(
        draw,
        torch.stack([start, start + way], 2),
        _first(draw, radius, (0.05, 1)),
    )


def _text(draw: Draw, options: Holes) -> Tensor:
    """A line of letters that nobody can read, of two strokes each."""
    letters = SEGMENTS // 2
    height, width = draw.batch.shape[2:]
    size = _log_numbers(draw, (7, 24))  # (N, 1)
    start = torch.stack([_numbers(draw, (0, 0.8 * side), 1) for side in (height, width)], 2)
    column = torch.arange(letters, device=size.device).repeat_interleave(2)  # (K,)
    corner = start + torch.stack([torch.zeros_like(size * column), size * column], 2)
    ends = [
        corner
        + size[..., None] * torch.stack([_numbers(draw, (0, 1)), _numbers(draw, (0, 0.8))], 2)
        for _ in range(2)
    ]
    return _lines(draw, torch.stack(ends, 2), _first(draw, size / 14, (0.2, 1)))


def _blobs(draw: Draw, options: Holes) -> Tensor:
    """Where smooth noise is high."""
    coarse = draw.normal(channels=1)[..., ::16, ::16]
    size = draw.batch.shape[2:]
    smooth = F.interpolate(coarse, size, mode="bicubic", align_corners=False)
    by_height = smooth.flatten(2).sort(2).values  # (N, 1, H W)
    share = draw.uniform((0.02, options.largest_share))[..., 0]
    sea_level = by_height.gather(2, ((1 - share) * (by_height.shape[2] - 1)).long())
    return (smooth > sea_level[..., None]).float()


def _boxes(draw: Draw, options: Holes) -> Tensor:
    """A rectangle."""
    sides = _log_numbers(draw, options.width_px, 2)[:, :, None, None]
    return _box(draw, sides[:, :1], sides[:, 1:])


def _box(draw: Draw, height: Tensor | float, width: Tensor | float) -> Tensor:
    """A rectangle of that size at a random place inside each crop, (N, 1, H, W)."""
    inside = torch.ones_like(draw.batch[:, :1])
    for axis, extent in ((2, height), (3, width)):
        side = draw.batch.shape[axis]
        place = torch.arange(side, device=inside.device).view(
            [-1 if d == axis else 1 for d in range(4)]
        )
        start = draw.uniform((0, 1)) * (side - torch.as_tensor(extent)).clamp(min=0)
        inside = inside * ((place + 0.5 >= start) & (place + 0.5 <= start + extent))
    return inside


KINDS: dict[str, Callable[[Draw, Holes], Tensor]] = {
    "strokes": _strokes,
    "scratches": _scratches,
    "specks": _specks,
    "text": _text,
    "blobs": _blobs,
    "boxes": _boxes,
}
