"""What a camera does between light and picture, backwards and forwards, on the training device.

Unprocessing follows Brooks et al., "Unprocessing images for learned raw denoising" (CVPR 2019):
tone curve, gamma, colour matrix and white balance are undone, so that noise can be added where it
arises, and done again.
"""

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor

from denoiser.training.draw import constant

# XYZ to camera, of four cameras, and sRGB to XYZ, as Brooks et al. publish them
XYZ_TO_CAMERA = (
    ((1.0234, -0.2969, -0.2266), (-0.5625, 1.6328, -0.0469), (-0.0703, 0.2188, 0.6406)),
    ((0.4913, -0.0541, -0.0202), (-0.613, 1.3513, 0.2906), (-0.1564, 0.2151, 0.7183)),
    ((0.838, -0.263, -0.0639), (-0.2887, 1.0725, 0.2496), (-0.0627, 0.1427, 0.5438)),
    ((0.6596, -0.2079, -0.0562), (-0.4782, 1.3016, 0.1933), (-0.097, 0.1581, 0.5181)),
)
RGB_TO_XYZ = (
    (0.4124564, 0.3575761, 0.1804375),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339, 0.1191920, 0.9503041),
)
GAMMA = 2.2
KNEE = 0.9  # from this grey on, gains fade to one, so that white stays white
DEMOSAICING = ("bilinear", "malvar", "hamilton-adams")

Kernel = tuple[tuple[float, ...], ...]
"""5 x 5 weights."""


def _kernel(rows: str, over: float = 1) -> Kernel:
    """Read rows divided by strokes, blank ones around them if there are fewer than five."""
    weights = [tuple(float(weight) / over for weight in row.split()) for row in rows.split("/")]
    blank = [(0.0,) * 5] * ((5 - len(weights)) // 2)
    return (*blank, *weights, *blank)


def _linear(cross: Kernel, row: Kernel, corners: Kernel) -> tuple[Kernel, ...]:
    """From the four neighbours, from those in the row, from those in the column, the corners."""
    return cross, row, tuple(zip(*row, strict=True)), corners


LINEAR = {
    "bilinear": _linear(
        _kernel("0 0 1 0 0 / 0 1 0 1 0 / 0 0 1 0 0", 4),
        _kernel("0 1 0 1 0", 2),
        _kernel("0 1 0 1 0 / 0 0 0 0 0 / 0 1 0 1 0", 4),
    ),
    "malvar": _linear(
        _kernel("0 0 -1 0 0 / 0 0 2 0 0 / -1 2 4 2 -1 / 0 0 2 0 0 / 0 0 -1 0 0", 8),
        _kernel("0 0 .5 0 0 / 0 -1 0 -1 0 / -1 4 5 4 -1 / 0 -1 0 -1 0 / 0 0 .5 0 0", 8),
        _kernel("0 0 -1.5 0 0 / 0 2 0 2 0 / -1.5 0 6 0 -1.5 / 0 2 0 2 0 / 0 0 -1.5 0 0", 8),
    ),
}
HAMILTON_ADAMS = (  # green from a row, the row's second difference, its first
    _kernel("-1 2 2 2 -1", 4),
    _kernel("-1 0 2 0 -1"),
    _kernel("0 -1 0 1 0"),
)


@dataclasses.dataclass(frozen=True)
class Cameras:
    """The cameras that took a batch: colour matrices and gains, one of each per crop."""

    to_camera: Tensor
    """(N, 3, 3), linear sRGB to the camera's colours, rows of sum 1."""
    gains: Tensor
    """(N, 3, 1, 1) by which its raw values are multiplied: exposure times white balance."""

    def unprocess(self, image: Tensor) -> Tensor:
        """Turn (N, 3, H, W) sRGB into the light, in [0, 1] of what the sensor holds."""
        curved = image.clamp(0, 1)
        toned = 0.5 - torch.sin(torch.asin(1 - 2 * curved) / 3)  # inverse of 3x^2 - 2x^3
        light = torch.einsum("nij,njhw->nihw", self.to_camera, toned.clamp(min=1e-8) ** GAMMA)
        knee = ((light.mean(1, keepdim=True) - KNEE).clamp(min=0) / (1 - KNEE)) ** 2
        inverse = 1 / self.gains
        return (light * torch.maximum(knee + (1 - knee) * inverse, inverse)).clamp(0, 1)

    def process(self, mosaic: Tensor, masks: Tensor, method: str) -> Tensor:
        """Turn what the sensor saw into sRGB, as converters do: gains first, then demosaicing.

        Args:
            mosaic: (M N, 1, H, W) raw values, M versions of each crop one after the other.
            masks: (3, H, W) from `bayer`.
            method: Of `demosaic`.

        Returns:
            (M N, 3, H, W) in [0, 1].
        """
        versions = len(mosaic) // len(self.gains)
        gains = (self.gains * masks).sum(1, keepdim=True).repeat(versions, 1, 1, 1)
        colours = demosaic((mosaic * gains).clamp(max=1), masks, method)  # black has room below
        inverse, _ = torch.linalg.inv_ex(self.to_camera)  # `inv` waits, to check
        matrices = inverse.repeat(versions, 1, 1)
        linear = torch.einsum("nij,njhw->nihw", matrices, colours.clamp(0, 1))
        curved = linear.clamp(1e-8, 1) ** (1 / GAMMA)
        return curved**2 * (3 - 2 * curved)


def random_camera(mix: Tensor, red: Tensor, blue: Tensor, exposure: Tensor) -> Cameras:
    """Mix a camera from the known ones.

    Args:
        mix: (N, 4) weight of each known camera, positive.
        red: (N, 1, 1, 1) gain of red over green.
        blue: (N, 1, 1, 1) gain of blue over green.
        exposure: (N, 1, 1, 1) gain of all.
    """
    to_camera, to_xyz = (constant(values, mix.device) for values in (XYZ_TO_CAMERA, RGB_TO_XYZ))
    known = torch.einsum("kij,jl->kil", to_camera, to_xyz)
    matrix = torch.einsum("nk,kij->nij", mix / mix.sum(1, keepdim=True), known)
    gains = exposure * torch.cat([red, torch.ones_like(red), blue], 1)
    return Cameras(matrix / matrix.sum(2, keepdim=True), gains)


def bayer(height: int, width: int, phase: int, device: torch.device) -> Tensor:
    """Say which colour each pixel sees.

    Args:
        height: In pixels.
        width: In pixels.
        phase: 0-3, where the grid of red, green / green, blue begins.
        device: Where the masks are to lie.

    Returns:
        (3, H, W) masks of red, green and blue, float32.
    """
    y = (torch.arange(height, device=device)[:, None] + phase // 2) % 2
    x = (torch.arange(width, device=device) + phase % 2) % 2
    return torch.stack([(1 - y) * (1 - x), (y + x) % 2, y * x]).float()


def demosaic(mosaic: Tensor, masks: Tensor, method: str) -> Tensor:
    """Guess the two colours that each pixel did not see.

    Args:
        mosaic: (N, 1, H, W), each pixel the one colour that it saw.
        masks: (3, H, W) from `bayer`.
        method: "bilinear"; "malvar" (Malvar, He and Cutler, ICASSP 2004: bilinear, corrected by
            the Laplacian of the colour that was seen); "hamilton-adams" (US patent 5,629,734:
            green along the smaller gradient, then differences of colours bilinear).

    Returns:
        (N, 3, H, W).
    """
    red, green, blue = masks
    if method == "hamilton-adams":
        across, in_x = _green_in_rows(mosaic)
        along, in_y = (found.mT for found in _green_in_rows(mosaic.mT))
        guess = torch.where(in_x < in_y, across, along)
        guess = torch.where(in_x == in_y, (across + along) / 2, guess)
        plane = torch.where(green > 0, mosaic, guess)
        difference = demosaic(mosaic - plane, masks, "bilinear")
        return torch.cat([plane + difference[:, :1], plane, plane + difference[:, 2:]], 1)
    cross, across, along, corners = _filter(mosaic, LINEAR[method]).chunk(4, 1)
    red_rows = red.amax(1, keepdim=True) > 0  # (H, 1)
    red_at_green = torch.where(red_rows, across, along)
    blue_at_green = torch.where(red_rows, along, across)
    return torch.cat(
        [
            red * mosaic + green * red_at_green + blue * corners,
            green * mosaic + (1 - green) * cross,
            blue * mosaic + green * blue_at_green + red * corners,
        ],
        1,
    )


def _green_in_rows(mosaic: Tensor) -> tuple[Tensor, Tensor]:
    """Green where red or blue was seen, from the same row, and how much the row varies there."""
    green, bend, step = _filter(mosaic, HAMILTON_ADAMS).chunk(3, 1)
    return green, bend.abs() + step.abs()


def _filter(plane: Tensor, kernels: tuple[Kernel, ...]) -> Tensor:
    """Convolve (N, 1, H, W) with K kernels to (N, K, H, W); mirrored borders keep the mosaic."""
    padded = F.pad(plane, (2, 2, 2, 2), mode="reflect")
    return F.conv2d(padded, constant(kernels, plane.device)[:, None])
