"""What a recipe does to clean crops before the network sees them, on the training device.

A recipe lists steps; each is applied in turn to the crops that it is drawn for.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from denoiser.training.jpeg import compress

Range = tuple[float, float]
"""[low, high], drawn uniformly per crop; annotated with the least and the most that it may be."""


@dataclasses.dataclass
class Batch:
    """Crops on their way through the steps."""

    clean: Tensor
    """(N, 3, H, W) float32 in [0, 1]."""
    noisy: Tensor
    """The same shape; exceeds [0, 1] until a step clips it."""
    variance: Tensor
    """(N, 1, 1, 1) of the noise so far, in squared [0, 1] units: what a noise map tells."""


class Draw:
    """Random numbers for a batch, made on its device."""

    def __init__(self, batch: Tensor, generator: torch.Generator) -> None:
        """Draw for the crops of `batch`, (N, C, H, W)."""
        self.batch, self.generator = batch, generator

    def uniform(self, bounds: Range) -> Tensor:
        """One number per crop, (N, 1, 1, 1)."""
        low, high = bounds
        return low + (high - low) * self._rand(len(self.batch), 1, 1, 1)

    def pixels(self) -> Tensor:
        """Uniform in [0, 1), one number per pixel, (N, 1, H, W)."""
        return self._rand(len(self.batch), 1, *self.batch.shape[2:])

    def normal(self, margin: int = 0) -> Tensor:
        """Standard normal, one number per value, (N, 3, H + 2 margin, W + 2 margin)."""
        count, channels, height, width = self.batch.shape
        shape = (count, channels, height + 2 * margin, width + 2 * margin)
        return torch.randn(shape, device=self.batch.device, generator=self.generator)

    def whole(self, count: int) -> int:
        """Pick one whole number in [0, count), the same for all crops."""
        shape, device = (1,), self.generator.device
        return int(torch.randint(count, shape, device=device, generator=self.generator))

    def _rand(self, *shape: int) -> Tensor:
        return torch.rand(shape, device=self.batch.device, generator=self.generator)


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
        if not 0 <= self.share <= 1:
            raise ValueError("share must lie in 0-1")
        for field in dataclasses.fields(self):
            for least, most in getattr(field.type, "__metadata__", ()):
                value = getattr(self, field.name)
                if len(value) != 2 or not least <= value[0] <= value[1] <= most:
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
        sigma, blur = draw.uniform(self.sigma) / 255, draw.uniform(self.blur_px)
        reach = math.ceil(3 * self.blur_px[1])
        place = torch.arange(-reach, reach + 1, device=blur.device)  # (K,)
        kernel = torch.exp(-(place**2) / (2 * blur.clamp(min=0.01) ** 2))  # (N, 1, 1, K)
        kernel = kernel / (kernel**2).sum(3, keepdim=True).sqrt()  # keeps the variance
        noise = draw.normal(reach).flatten(0, 1)[None]  # (1, 3 N, H + 2 reach, W + 2 reach)
        kernels = kernel.repeat_interleave(noise.shape[1] // len(kernel), 0)
        for weights in (kernels, kernels.transpose(2, 3)):
            noise = F.conv2d(noise, weights, groups=len(weights))
        noisy = batch.noisy + sigma * noise.reshape(batch.noisy.shape)
        return Batch(batch.clean, noisy, batch.variance + sigma**2)


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
class Clip(Step):
    """Values clipped to [0, 1], as files of whole numbers have them."""

    kind: str = dataclasses.field(init=False, default="clip")

    def apply(self, batch: Batch, draw: Draw) -> Batch:
        """Clip."""
        return Batch(batch.clean, batch.noisy.clamp(0, 1), batch.variance)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grey(Step):
    """Crops turned grey: green stands for all channels. Comes last, so that noise is grey too."""

    kind: str = dataclasses.field(init=False, default="grey")

    def apply(self, batch: Batch, draw: Draw) -> Batch:
        """Copy green to red and blue."""
        clean, noisy = (image[:, 1:2].expand_as(image) for image in (batch.clean, batch.noisy))
        return Batch(clean, noisy, batch.variance)


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
        Clip,
        Grey,
    )
}


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
    batch = Batch(clean, clean, clean.new_zeros(count, 1, 1, 1))
    draw = Draw(clean, generator)
    for step in steps:
        after = step.apply(batch, draw)
        if step.share < 1:
            chosen = draw.uniform((0, 1)) < step.share
            after = Batch(
                *(
                    torch.where(chosen, getattr(after, name), getattr(batch, name))
                    for name in ("clean", "noisy", "variance")
                )
            )
        batch = after
    return batch.clean, batch.noisy, batch.variance.sqrt().expand(count, 1, height, width)
