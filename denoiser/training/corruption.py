"""What a recipe does to clean crops before the network sees them, on the training device.

A recipe lists steps; each is applied in turn to the crops that it is drawn for.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from denoiser.training import camera, filters, holes, recorded
from denoiser.training.checks import check_types
from denoiser.training.draw import Draw, Range, constant
from denoiser.training.jpeg import YCBCR, compress

_CHROMA_POWER = 1 + 3 * sum(weight**2 for weight in YCBCR[0])
# of white noise without its luma, summed over the channels


@dataclasses.dataclass
class Batch:
    """Crops on their way through the steps."""

    clean: Tensor
    """(N, 3, H, W) float32 in [0, 1]."""
    noisy: Tensor
    """The same shape; exceeds [0, 1] until a step clips it."""
    variance: Tensor
    """(N, 1, 1, 1) of the noise so far, in squared [0, 1] units: what a noise map tells."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """A kind of corruption; subclasses say which."""

    kind: str = dataclasses.field(init=False)
    share: float = 1.0
    """Share of the crops to which it is done."""

    def __post_init__(self) -> None:
        """Reject impossible values.

        Raises:
            ValueError: A share or range lies outside its limits.
        """
        check_types(self)
        if not 0 <= self.share <= 1:
            raise ValueError("share must lie in 0-1")
        for field in dataclasses.fields(self):
            for least, most in getattr(field.type, "__metadata__", ()):
                value = getattr(self, field.name)
                if not least <= value[0] <= value[1] <= most:
                    limits = f"{least:g} <= low <= high <= {most:g}"
                    raise ValueError(f"{field.name} must be [low, high] with {limits}")

    @property
    def levels(self) -> Range:
        """Least and largest standard deviation of its noise on the 0-255 scale, light at most 1."""
        return 0, 0

    def apply(self, batch: Batch, draw: Draw) -> Batch:
        """Corrupt every crop of a batch; the input is not changed."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gaussian(Step):
    """White noise of one level per crop."""

    kind: str = dataclasses.field(init=False, default="gaussian")
    sigma: Annotated[Range, (0, 255)]
    """Standard deviation on the 0-255 scale."""

    @property
    def levels(self) -> Range:
        """Its sigma."""
        return self.sigma

    def apply(self, batch: Batch, draw: Draw) -> Batch:
        """Add sigma * normal."""
        sigma = draw.uniform(self.sigma) / 255
        return Batch(batch.clean, batch.noisy + sigma * draw.normal(), batch.variance + sigma**2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Correlated(Gaussian):
    """Gaussian noise that neighbouring pixels share, as demosaicing and scaling leave it."""

    kind: str = dataclasses.field(init=False, default="correlated")
    blur_px: Annotated[Range, (0, 4)]
    """Standard deviation of the Gaussian that white noise is blurred with."""

    def apply(self, batch: Batch, draw: Draw) -> Batch:
        """Blur white noise, crop by crop, and scale it to sigma."""
        noise, sigma = self._noise(draw), draw.uniform(self.sigma) / 255
        return Batch(batch.clean, batch.noisy + sigma * noise, batch.variance + sigma**2)

    def _noise(self, draw: Draw) -> Tensor:
        """(N, 3, H, W) of variance 1."""
        kernel = filters.gaussian(draw.uniform(self.blur_px), self.blur_px[1])
        kernel = kernel / (kernel**2).sum(3, keepdim=True).sqrt()  # keeps the variance
        return filters.convolve(draw.normal(kernel.shape[3] // 2), kernel)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chroma(Correlated):
    """Blotches of colour: correlated noise that leaves the luma alone."""

    kind: str = dataclasses.field(init=False, default="chroma")

    def _noise(self, draw: Draw) -> Tensor:
        noise = super()._noise(draw)
        return (noise - luma(noise)) * math.sqrt(3 / _CHROMA_POWER)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PoissonGaussian(Step):
    """Counted photons and a reading error: variance gain * x + sigma^2 (Foi et al. 2008)."""

    kind: str = dataclasses.field(init=False, default="poisson-gaussian")
    gain: Annotated[Range, (1e-5, 1)]
    """Value of one photon in [0, 1] units."""
    sigma: Annotated[Range, (0, 255)]
    """Standard deviation of the reading error on the 0-255 scale."""

    @property
    def levels(self) -> Range:
        """In the dark only the reading error, in the light both."""
        return self.sigma[0], math.hypot(255 * math.sqrt(self.gain[1]), self.sigma[1])

    def apply(self, batch: Batch, draw: Draw) -> Batch:
        """Draw photons for the light that is there, then add the reading error."""
        gain, sigma = draw.uniform(self.gain), draw.uniform(self.sigma) / 255
        light = batch.noisy.clamp(min=0)
        counted = torch.poisson(light / gain, generator=draw.generator) * gain
        variance = gain * light.mean((1, 2, 3), keepdim=True) + sigma**2  # its mean in the crop
        return Batch(batch.clean, counted + sigma * draw.normal(), batch.variance + variance)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Speckle(Step):
    """Multiplicative noise, as in radar and ultrasound: x + x * sigma * normal."""

    kind: str = dataclasses.field(init=False, default="speckle")
    sigma: Annotated[Range, (0, 10)]
    """Standard deviation of the factor."""

    @property
    def levels(self) -> Range:
        """In the dark none."""
        return 0, 255 * self.sigma[1]

    def apply(self, batch: Batch, draw: Draw) -> Batch:
        """Multiply by 1 + sigma * normal."""
        sigma = draw.uniform(self.sigma)
        variance = sigma**2 * (batch.noisy**2).mean((1, 2, 3), keepdim=True)
        noisy = batch.noisy * (1 + sigma * draw.normal())
        return Batch(batch.clean, noisy, batch.variance + variance)


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
class Camera(Step):
    """Noise of a camera: photons and reading under the colour filters, then all that follows.

    The crop is unprocessed to the light on the sensor (Brooks et al. 2019, see `camera`), and goes
    back to a picture twice, with the noise and with its negative; the crop gets half the
    difference. So noise is shaped by demosaicing, white balance, colour matrix and curves, but the
    crop is not softened by them, nor does the noise have a mean where curves bend: what they do to
    a picture is not noise to be removed.
    """

    kind: str = dataclasses.field(init=False, default="camera")
    shot: Annotated[Range, (1e-6, 0.1)] = (1e-4, 0.012)
    """Variance of the photon noise at full light, drawn uniformly in the logarithm. That of reading
    follows as Brooks et al. found it on real cameras."""
    luma_blur_px: Annotated[Range, (0, 4)] = (0, 0)
    """Standard deviation of a Gaussian that smooths the noise's luma, as denoising in cameras."""
    chroma_blur_px: Annotated[Range, (0, 4)] = (0, 0)
    """The same for its chroma."""
    coarse_px: Annotated[Range, (0, 4)] = (0, 0)
    """Denoising in cameras takes what is fine and leaves what is coarse: standard deviation of the
    Gaussian that tells them apart."""
    luma_left: Annotated[Range, (0, 1)] = (1, 1)
    """What is left of the fine part of the noise's luma."""
    chroma_left: Annotated[Range, (0, 1)] = (1, 1)
    """The same for its chroma."""
    chroma: Annotated[Range, (0, 1)] = (1, 1)
    """What is left of all of the chroma, coarse and fine."""
    sharpen: Annotated[Range, (0, 4)] = (0, 0)
    """Amount of an unsharp mask of radius 1 pixel on the luma."""

    @property
    def levels(self) -> Range:
        """Nearly none in white; in midtones about 1.6 times what photons alone have at full light.

        That factor was measured on mid-grey: gains and curves steepen, demosaicing averages.
        """
        return 0, 1.6 * 255 * math.sqrt(self.shot[1])

    def apply(self, batch: Batch, draw: Draw) -> Batch:
        """Add the noise that a random camera makes of this picture."""
        low, high = (math.log(value) for value in self.shot)
        shot = draw.uniform((low, high))  # its logarithm
        read = torch.exp(2.18 * shot + 1.2 + 0.26 * draw.crops())
        taken_by = camera.random_camera(
            torch.cat([draw.uniform((0.01, 1)) for _ in camera.XYZ_TO_CAMERA], 1).flatten(1),
            red=draw.uniform((1.9, 2.4)),
            blue=draw.uniform((1.5, 1.9)),
            exposure=1 / (0.8 + 0.1 * draw.crops()).clamp(min=0.5),
        )
        light = taken_by.unprocess(batch.noisy)
        masks = camera.bayer(light.shape[2], light.shape[3], draw.whole(4), light.device)
        mosaic = (light * masks).sum(1, keepdim=True)
        noise = (torch.exp(shot) * mosaic + read).sqrt() * draw.normal(channels=1)
        method = camera.DEMOSAICING[draw.whole(len(camera.DEMOSAICING))]
        pair = taken_by.process(torch.cat([mosaic + noise, mosaic - noise]), masks, method)
        brighter, darker = pair.chunk(2)
        noise = (brighter - darker) / 2
        grey = luma(noise)
        noise = noise - grey
        if self.coarse_px[1]:
            width = draw.uniform(self.coarse_px)
            coarse = filters.blur(torch.cat([noise, grey], 1), width, self.coarse_px[1])
            noise = torch.lerp(coarse[:, :3], noise, draw.uniform(self.chroma_left))
            grey = torch.lerp(coarse[:, 3:], grey, draw.uniform(self.luma_left))
        if self.chroma[0] < 1:
            noise = draw.uniform(self.chroma) * noise
        if self.chroma_blur_px[1]:
            width = draw.uniform(self.chroma_blur_px)
            noise = filters.blur(noise, width, self.chroma_blur_px[1])
        if self.luma_blur_px[1]:
            grey = filters.blur(grey, draw.uniform(self.luma_blur_px), self.luma_blur_px[1])
        if self.sharpen[1]:
            soft = filters.blur(grey, torch.ones_like(shot), 1)
            grey = grey + draw.uniform(self.sharpen) * (grey - soft)
        noise = noise + grey
        return Batch(batch.clean, batch.noisy + noise, batch.variance + power(noise))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recorded(Gaussian):
    """Noise of one of the real cameras in `recorded`; like theirs it depends on the brightness."""

    kind: str = dataclasses.field(init=False, default="recorded")
    scale: Annotated[Range, (0.5, 2)] = (1, 1)
    """By how much it is enlarged."""
    chroma: Annotated[Range, (0, 1)] = (1, 1)
    """What is left of its colour."""
    bend: Annotated[Range, (-1, 1)] = (-0.6, 0.6)
    """It goes with (0.3 + brightness)^bend: curves and denoising make it grow or fall."""

    def apply(self, batch: Batch, draw: Draw) -> Batch:
        """Take a window of a camera's noise at a random place, and scale it to sigma."""
        fields = recorded.fields(batch.noisy.device)
        height, width = batch.noisy.shape[2:]
        chosen = (draw.uniform((0, 1)) * len(fields)).long().flatten()
        size = constant(((width, height),), fields.device)[..., None, None] / fields.shape[2]
        noise = _windows(fields[chosen], size / draw.uniform(self.scale), draw, (height, width))
        grey = luma(noise)
        noise = torch.lerp(grey, noise, draw.uniform(self.chroma))
        light = batch.noisy.mean(1, keepdim=True).clamp(0, 1)
        noise = noise * (0.3 + light) ** draw.uniform(self.bend)
        sigma = draw.uniform(self.sigma) / 255
        noise = noise * sigma / power(noise).sqrt()
        return Batch(batch.clean, batch.noisy + noise, batch.variance + sigma**2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Zoom(Step):
    """Crops enlarged: soft as pictures are at the pixel level, and their noise coarse."""

    kind: str = dataclasses.field(init=False, default="zoom")
    factor: Annotated[Range, (1, 8)]
    """By how much; what falls off the edges is lost."""

    def apply(self, batch: Batch, draw: Draw) -> Batch:
        """Take a window at a random place and scale it up (bicubic)."""
        both = torch.cat([batch.clean, batch.noisy], 1)
        clean, noisy = _windows(both, 1 / draw.uniform(self.factor), draw).chunk(2, 1)
        inside = clean.clamp(0, 1)  # bicubic curves overshoot
        return _with_variance(Batch(inside, noisy - clean + inside, batch.variance), batch)


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


def _windows(
    images: Tensor, part: Tensor, draw: Draw, shape: tuple[int, int] | None = None
) -> Tensor:
    """Take a window at a random place of each image, and scale it (bicubic).

    Args:
        images: (N, C, H, W).
        part: (N, 1 or 2, 1, 1), how much of the image the window spans: across, and down.
        draw: Says where.
        shape: (h, w) of the windows; that of the images if None.

    Returns:
        (N, C, h, w).
    """
    count = len(images)
    part = part[:, :, 0].expand(count, 2, 1)
    shift = (1 - part) * torch.cat([draw.uniform((-1, 1))[:, :, 0] for _ in range(2)], 1)
    affine = torch.cat([torch.diag_embed(part[:, :, 0]), shift], 2)  # (N, 2, 3)
    size = [count, images.shape[1], *(shape or images.shape[2:])]
    grid = F.affine_grid(affine, size, align_corners=False)
    return F.grid_sample(
        images, grid, mode="bicubic", padding_mode="reflection", align_corners=False
    )


def _with_variance(after: Batch, before: Batch) -> Batch:
    """Scale the variance by how much weaker or stronger a step has left the noise."""
    now, then = (power(batch.noisy - batch.clean) for batch in (after, before))
    return dataclasses.replace(after, variance=before.variance * now / then.clamp(min=1e-12))


def power(noise: Tensor) -> Tensor:
    """Mean square of each crop of (N, 3, H, W), (N, 1, 1, 1)."""
    return noise.square().mean((1, 2, 3), keepdim=True)


def luma(image: Tensor) -> Tensor:
    """Luma of (N, 3, H, W) by ITU-R BT.601, (N, 1, H, W)."""
    return (image * constant(YCBCR[0], image.device)[:, None, None]).sum(1, keepdim=True)


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
