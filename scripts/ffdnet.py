"""FFDNet as published (Zhang et al. 2018), turned into a model for our engine, to compare with."""

import io
import itertools
import pickle
import warnings
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from denoiser.errors import InputError


class FFDNet(nn.Module):
    """FFDNet for colour: twelve convolutions on a pixel-unshuffled image."""

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


def to_onnx(weights: Path) -> bytes:
    """Read published weights and give an ONNX model with our contract.

    Raises:
        InputError: The file is missing or holds other weights.
    """
    network = FFDNet()
    try:
        network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    except (OSError, RuntimeError, TypeError, pickle.UnpicklingError) as error:
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
