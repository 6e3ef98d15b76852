"""What people would use instead: peers to measure beside our models, never shipped."""

import functools
import io
import itertools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from denoiser import restore
from denoiser.engine import Model
from denoiser.errors import ArgumentError, InputError
from denoiser.noise import estimate_sigma

Denoiser = Callable[[np.ndarray, float | None], np.ndarray]
"""(H, W, 3) float32 noisy, and sigma in [0, 1] units or None if unknown -> restored."""
NAMES = ("nlm", "bm3d", "ffdnet", "ffdnet-clip")


def peer(name: str, weights: Path | None, device: str) -> Denoiser:
    """Find a peer by name.

    Args:
        name: One of `NAMES`.
        weights: Folder of the published FFDNet weights.
        device: Where FFDNet runs, by our engine; the others know the CPU only.

    Raises:
        ArgumentError: A package or the weights are missing.
    """
    if name == "nlm":
        return nlm
    if name == "bm3d":
        return bm3d
    if weights is None:
        raise ArgumentError(f"--peer {name} needs --weights, a folder of published weights")
    file = weights / ("ffdnet_clip_color.pth" if name == "ffdnet-clip" else "ffdnet_color.pth")
    return functools.partial(ours, model=Model(ffdnet(file), device=device))


def ours(noisy: np.ndarray, sigma: float | None, model: Model) -> np.ndarray:
    """Restore with a model that keeps our contract."""
    level: float | Literal["auto"] = "auto" if sigma is None else sigma
    return restore.denoise(noisy, model, sigma=level)


def nlm(noisy: np.ndarray, sigma: float | None) -> np.ndarray:
    """OpenCV's non-local means for colour, on the clipped 8-bit image that it demands.

    Its strength is half of sigma: the best of 0.2 to 2 times sigma on validation pictures.
    """
    import cv2

    level = (estimate_sigma(noisy) if sigma is None else sigma) * 255
    bgr = np.rint(np.clip(noisy, 0, 1) * 255).astype(np.uint8)[..., ::-1].copy()
    restored: np.ndarray = cv2.fastNlMeansDenoisingColored(
        bgr, None, level * 0.5, level * 0.5, 7, 21
    )
    return restored[..., ::-1].astype(np.float32) / 255


def bm3d(noisy: np.ndarray, sigma: float | None) -> np.ndarray:
    """The bm3d package (colour). For non-commercial use: install it yourself to compare."""
    try:
        from bm3d import bm3d_rgb
    except ImportError as error:
        raise ArgumentError("--peer bm3d needs: pip install bm3d") from error
    level = estimate_sigma(noisy) if sigma is None else sigma
    return np.asarray(bm3d_rgb(noisy.astype(np.float64), level), np.float32)


class FFDNet(nn.Module):
    """FFDNet for colour (Zhang et al. 2018): twelve convolutions on a pixel-unshuffled image."""

    def __init__(self) -> None:
        super().__init__()
        widths = [13, *[96] * 11, 12]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
        self.model = nn.Sequential(*layers[:-1])

    def forward(self, image: Tensor, sigma: Tensor) -> Tensor:
        """Restore (N, 3, H, W) of noise level (N, 1, H, W); H and W even."""
        cells = torch.cat([nn.functional.pixel_unshuffle(image, 2), sigma[..., ::2, ::2]], 1)
        restored: Tensor = nn.functional.pixel_shuffle(self.model(cells), 2)
        return restored


def ffdnet(weights: Path) -> bytes:
    """Turn published weights into an ONNX model with our contract, for our engine.

    Raises:
        InputError: The file is missing or holds other weights.
    """
    network = FFDNet()
    try:
        network.load_state_dict(torch.load(weights, weights_only=True))
    except (OSError, RuntimeError) as error:
        raise InputError(f"{weights} holds no FFDNet weights") from error
    buffer, names = io.BytesIO(), ("image", "sigma", "restored")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.eval(),
            (torch.zeros(1, 3, 32, 32), torch.zeros(1, 1, 32, 32)),
            buffer,  # type: ignore[arg-type]
            dynamo=False,
            opset_version=17,
            input_names=list(names[:2]),
            output_names=list(names[2:]),
            dynamic_axes={name: {0: "N", 2: "H", 3: "W"} for name in names},
        )
    model = onnx.load_from_string(buffer.getvalue())
    facts = {"task": "denoise", "stride": "2", "halo": "24", "sigma_range": f"0 {75 / 255}"}
    onnx.helper.set_model_props(model, facts | {"name": weights.stem})
    return bytes(model.SerializeToString())
