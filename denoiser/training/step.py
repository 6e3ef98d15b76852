"""A step of corruption, and the crops that go through it."""

import dataclasses

from torch import Tensor

from denoiser.training.checks import check_types
from denoiser.training.draw import Draw, Range, constant
from denoiser.training.jpeg import YCBCR


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


def power(noise: Tensor) -> Tensor:
    """Mean square of each crop of (N, 3, H, W), (N, 1, 1, 1)."""
    return noise.square().mean((1, 2, 3), keepdim=True)


def luma(image: Tensor) -> Tensor:
    """Luma of (N, 3, H, W) by ITU-R BT.601, (N, 1, H, W)."""
    return (image * constant(YCBCR[0], image.device)[:, None, None]).sum(1, keepdim=True)
