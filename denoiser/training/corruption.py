"""What a recipe does to clean crops before the network sees them, on the training device.

A recipe lists steps; each is applied in turn to the crops that it is drawn for. `noises` has those
that add noise.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated

import torch
from torch import Tensor

from denoiser.training import filters, holes
from denoiser.training.draw import Draw, Range
from denoiser.training.jpeg import compress
from denoiser.training.noises import (
    Camera,
    Chroma,
    Correlated,
    Gaussian,
    PoissonGaussian,
    Recorded,
    Speckle,
)
from denoiser.training.step import Batch, Step, power


@dataclasses.dataclass(frozen=True, kw_only=True)
class SaltAndPepper(Step):
    """Pixels that are stuck at white or black, half of each."""

    kind: str = dataclasses.field(init=False, default="salt-and-pepper")
    density: Annotated[Range, (0, 1)]
    """Share of the pixels."""

    def apply(self, batch: Batch, draw: Draw) -> Batch:
        """Replace pixels in all channels."""
        density, place = draw.uniform(self.density), draw.pixels()
        noisy = torch.where(place < density, (place < density / 2).float(), batch.noisy)
        return Batch(batch.clean, noisy, batch.variance)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Masking(Step):
    """Pixels that are missing, set to zero (Vincent et al. 2008)."""

    kind: str = dataclasses.field(init=False, default="masking")
    density: Annotated[Range, (0, 1)]
    """Share of the pixels."""

    def apply(self, batch: Batch, draw: Draw) -> Batch:
        """Blacken pixels in all channels."""
        kept = draw.pixels() >= draw.uniform(self.density)
        return Batch(batch.clean, batch.noisy * kept, batch.variance)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Jpeg(Step):
    """JPEG compression with halved chroma, its block grid at a random place."""

    kind: str = dataclasses.field(init=False, default="jpeg")
    quality: Annotated[Range, (1, 100)]
    """As libjpeg counts it."""

    def apply(self, batch: Batch, draw: Draw) -> Batch:
        """Compress and expand; values are clipped and rounded to 8 bits."""
        quality = draw.uniform(self.quality).round()
        noisy = compress(batch.noisy, quality, draw.whole(16), draw.whole(16))
        return Batch(batch.clean, noisy, batch.variance)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Zoom(Step):
    """Crops enlarged, soft as pictures are at the pixel level, or made smaller, and so sharper."""

    kind: str = dataclasses.field(init=False, default="zoom")
    factor: Annotated[Range, (0.25, 8)]
    """By how much; what falls off the edges is lost, what is missing there is mirrored."""

    def apply(self, batch: Batch, draw: Draw) -> Batch:
        """Take a window at a random place and scale it (bicubic), blurred if it becomes smaller."""
        both, part = torch.cat([batch.clean, batch.noisy], 1), 1 / draw.uniform(self.factor)
        if self.factor[0] < 1:
            width = 0.4 * (part.square() - 1).clamp(min=0).sqrt()
            both = filters.blur(both, width, 0.4 * math.sqrt(1 / self.factor[0] ** 2 - 1))
        clean, noisy = draw.windows(both, part).chunk(2, 1)
        inside = clean.clamp(0, 1)  # bicubic curves overshoot
        return _with_variance(Batch(inside, noisy - clean + inside, batch.variance), batch)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Colour(Step):
    """Other colours: the channels in any order, more or less vivid. Noise stays as strong."""

    kind: str = dataclasses.field(init=False, default="colour")
    vivid: Annotated[Range, (0, 4)]
    """What the difference of each pixel's channels from their mean is multiplied by."""

    def apply(self, batch: Batch, draw: Draw) -> Batch:
        """Permute and scale; clean crops are clipped to [0, 1]."""
        order = torch.cat([draw.uniform((0, 1)) for _ in range(3)], 1).argsort(1)  # (N, 3, 1, 1)
        clean, noise = (
            image.take_along_dim(order, 1) for image in (batch.clean, batch.noisy - batch.clean)
        )
        clean = torch.lerp(clean.mean(1, keepdim=True), clean, draw.uniform(self.vivid)).clamp(0, 1)
        return Batch(clean, clean + noise, batch.variance)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Either(Step):
    """Some crops of every batch go one way, the rest another."""

    kind: str = dataclasses.field(init=False, default="either")
    part: float = 0.5
    """Share of the batch that gets `steps`, rounded up or down at random to whole crops."""
    steps: tuple[Step, ...] = ()
    otherwise: tuple[Step, ...] = ()
    """What the others get."""

    def __post_init__(self) -> None:
        """Reject impossible values."""
        super().__post_init__()
        if not 0 <= self.part <= 1:
            raise ValueError("part must lie in 0-1")

    @property
    def levels(self) -> Range:
        """The least of the ways that may be quietest, the largest of the loudest."""
        lows, highs = zip(*(levels_of(way) for way in (self.steps, self.otherwise)), strict=True)
        return min(lows), max(highs)

    def apply(self, batch: Batch, draw: Draw) -> Batch:
        """Divide the batch; crops lie in it in no order, so the first are as good as any."""
        share = self.part * len(batch.clean)
        count = int(share) + (draw.whole(1000) < 1000 * (share % 1))  # right on average
        ways = []
        for part, steps in ((slice(count), self.steps), (slice(count, None), self.otherwise)):
            crops = Batch(batch.clean[part], batch.noisy[part], batch.variance[part])
            if len(crops.clean):
                ways.append(_apply_all(crops, steps, draw.generator))
        return _together(lambda *parts: torch.cat(parts), *ways)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Defects(Step):
    """Scratches and dust of scans, bright or dark, soft at the edges, for a network to find.

    Where they are takes the place of the clean crop: 1 under scratches in the first channel, under
    dust in the second, under either in the third, else 0.
    """

    kind: str = dataclasses.field(init=False, default="defects")
    strength: Annotated[Range, (0, 1)]
    """How much of the picture they hide."""
    blur_px: Annotated[Range, (0, 4)] = (0.4, 1)
    """Standard deviation of the Gaussian that softens them."""
    visible: float = 0.25
    """What hides less of the picture than that, in the soft edges, is not to be found."""

    def __post_init__(self) -> None:
        """Reject impossible values."""
        super().__post_init__()
        if self.share != 1:
            raise ValueError("defects have no share: crops without any are drawn among them")
        if not 0 <= self.visible < 1:
            raise ValueError("visible must lie in 0-1, below 1")

    def apply(self, batch: Batch, draw: Draw) -> Batch:
        """Paint them over the noisy crops, of one strength and brightness per crop."""
        sharp = holes.draw_defects(batch.noisy, draw.generator)  # (N, 2, H, W)
        cover = filters.blur(sharp, draw.uniform(self.blur_px), self.blur_px[1])
        bright = (draw.uniform((0, 1)) < 0.5).float()
        colour = torch.lerp(draw.uniform((0, 0.15)), draw.uniform((0.8, 1)), bright)
        both = cover.amax(1, keepdim=True)
        noisy = torch.lerp(batch.noisy, colour, draw.uniform(self.strength) * both)
        clean = (torch.cat([cover, both], 1) > self.visible).to(noisy.dtype)
        return dataclasses.replace(batch, clean=clean, noisy=noisy)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clip(Step):
    """Values clipped to [0, 1], as files of whole numbers have them."""

    kind: str = dataclasses.field(init=False, default="clip")

    def apply(self, batch: Batch, draw: Draw) -> Batch:
        """Clip."""
        return Batch(batch.clean, batch.noisy.clamp(0, 1), batch.variance)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grey(Step):
    """Crops turned grey: green stands for all channels. What comes before is grey too."""

    kind: str = dataclasses.field(init=False, default="grey")

    def apply(self, batch: Batch, draw: Draw) -> Batch:
        """Copy green to red and blue."""
        clean, noisy = (image[:, 1:2].expand_as(image) for image in (batch.clean, batch.noisy))
        return _with_variance(Batch(clean, noisy, batch.variance), batch)


KINDS: dict[str, type[Step]] = {
    kind.kind: kind
    for kind in (
        Gaussian,
        Correlated,
        PoissonGaussian,
        Speckle,
        SaltAndPepper,
        Masking,
        Jpeg,
        Chroma,
        Camera,
        Recorded,
        Zoom,
        Colour,
        Either,
        Defects,
        Clip,
        Grey,
    )
}


def _together(join: Callable[..., Tensor], *batches: Batch) -> Batch:
    """Join batches: clean with clean, noisy with noisy, variance with variance."""
    names = ("clean", "noisy", "variance")
    return Batch(*(join(*(getattr(batch, name) for batch in batches)) for name in names))


def _with_variance(after: Batch, before: Batch) -> Batch:
    """Scale the variance by how much weaker or stronger a step has left the noise."""
    now, then = (power(batch.noisy - batch.clean) for batch in (after, before))
    return dataclasses.replace(after, variance=before.variance * now / then.clamp(min=1e-12))


def every(steps: Sequence[Step]) -> Iterator[Step]:
    """Iterate over steps and those of the ways that some part into."""
    for step in steps:
        yield step
        if isinstance(step, Either):
            yield from every((*step.steps, *step.otherwise))


def levels_of(steps: Sequence[Step]) -> Range:
    """Least and largest standard deviation of all the steps' noise together, 0-255."""
    lows = [step.levels[0] for step in steps if step.share == 1]
    return math.hypot(*lows), math.hypot(*(step.levels[1] for step in steps))


def corrupt(
    clean: Tensor, steps: Sequence[Step], generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Corrupt clean crops step by step.

    Args:
        clean: (N, 3, H, W) float32 in [0, 1].
        steps: What to do, in this order.
        generator: Source of randomness, on the device of `clean`.

    Returns:
        clean (N, 3, H, W), grey where the crop was turned grey; noisy (N, 3, H, W), which exceeds
        [0, 1] except where clipped; sigma (N, 1, H, W), standard deviation of the noise in [0, 1]
        units, the crop's mean where noise depends on the light. Damage that has no such level
        (salt and pepper, masking, JPEG) does not count.
    """
    count, _, height, width = clean.shape
    batch = _apply_all(Batch(clean, clean, clean.new_zeros(count, 1, 1, 1)), steps, generator)
    return batch.clean, batch.noisy, batch.variance.sqrt().expand(count, 1, height, width)


def _apply_all(batch: Batch, steps: Sequence[Step], generator: torch.Generator) -> Batch:
    draw = Draw(batch.clean, generator)
    for step in steps:
        after = step.apply(batch, draw)
        if step.share < 1:
            chosen = draw.uniform((0, 1)) < step.share
            after = _together(lambda new, old, at=chosen: torch.where(at, new, old), after, batch)
        batch = after
    return batch
