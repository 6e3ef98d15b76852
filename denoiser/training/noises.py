"""Kinds of noise that a recipe can add: white, correlated, of photons, of cameras."""

import dataclasses
import math
from typing import Annotated

import torch
from torch import Tensor

from denoiser.training import camera, filters, recorded
from denoiser.training.draw import Draw, Range, constant
from denoiser.training.jpeg import YCBCR
from denoiser.training.step import Batch, Step, luma, power

_CHROMA_POWER = 1 + 3 * sum(weight**2 for weight in YCBCR[0])
# of white noise without its luma, summed over the channels


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
        noise = draw.windows(fields[chosen], size / draw.uniform(self.scale), (height, width))
        grey = luma(noise)
        noise = torch.lerp(grey, noise, draw.uniform(self.chroma))
        light = batch.noisy.mean(1, keepdim=True).clamp(0, 1)
        noise = noise * (0.3 + light) ** draw.uniform(self.bend)
        sigma = draw.uniform(self.sigma) / 255
        noise = noise * sigma / power(noise).sqrt()
        return Batch(batch.clean, batch.noisy + noise, batch.variance + sigma**2)
