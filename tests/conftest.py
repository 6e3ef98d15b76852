"""Tiny ONNX models, pictures with everything a file can carry, and a way to run the commands."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import settings
from onnx import TensorProto, helper, numpy_helper
from PIL import Image, ImageCms

from denoiser import cli, inpaint_cli
from denoiser.engine import Model
from denoiser.training.noises import Gaussian
from denoiser.training.recipe import Network, Recipe, Training

settings.register_profile("denoiser", deadline=None, derandomize=True)
settings.load_profile("denoiser")
SHIPPED = Path(__file__).parent.parent
SAMPLE = SHIPPED / "docs" / "sample"
CPU = torch.device("cpu")
TINY = Recipe(
    "tiny",
    Network(channels=(8, 16), blocks=1),
    (Gaussian(sigma=(10, 50)),),
    training=Training(steps=6, batch=2, crop_px=32, warmup_steps=2, rate=2e-3),
)


@pytest.fixture(autouse=True)
def the_same_random_numbers() -> None:
    """Every test draws the same, whichever ran before."""
    torch.manual_seed(0)


def tiny_onnx(
    nodes: list[onnx.NodeProto] | None = None,
    *,
    inputs: tuple[str, ...] = ("image", "sigma"),
    initializers: list[onnx.TensorProto] | None = None,
    stride: int = 8,
    halo: int = 8,
    noise_halo: int | None = None,
    sigma_range: str = "0 1",
    metadata: bool = True,
    outputs: tuple[str, ...] = ("restored",),
    task: str = "",
    shape: Sequence[str | int] = ("N", "H", "W"),
) -> bytes:
    """A model that returns its image, or what `nodes` make of it."""
    channels = {"image": 3, "sigma": 1, "hole": 1}
    graph = helper.make_graph(
        nodes or [helper.make_node("Identity", [inputs[0]], [outputs[0]])],
        "tiny",
        [
            helper.make_tensor_value_info(
                name, TensorProto.FLOAT, [shape[0], channels.get(name, 3), *shape[1:]]
            )
            for name in inputs
        ],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", None, None, None])
            for name in outputs
        ],
        initializers or [],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if metadata:
        properties = {
            "task": task or ("inpaint" if "hole" in inputs else "denoise"),
            "stride": str(stride),
            "halo": str(halo),
            "sigma_range": sigma_range,
            "name": "tiny",
            "version": "1",
            "license": "CC0-1.0",
        }
        if noise_halo is not None:
            properties["noise_halo"] = str(noise_halo)
        helper.set_model_props(model, properties)
    return model.SerializeToString()


def blur_onnx(radius: int) -> bytes:
    """A box blur whose context is exactly `radius`; borders are padded with zeros."""
    side = 2 * radius + 1
    kernel = np.full((3, 1, side, side), 1 / side**2, np.float32)
    node = helper.make_node("Conv", ["image", "kernel"], ["restored"], group=3, pads=[radius] * 4)
    return tiny_onnx([node], initializers=[numpy_helper.from_array(kernel, "kernel")], halo=radius)


FOUND = 0.1  # the noise level that `estimating_onnx` finds in every picture


def estimating_onnx() -> bytes:
    """Returns image - noise level: the one it is told or, if negative, a multiple of FOUND."""
    nodes = [
        helper.make_node("ReduceMin", ["image"], ["least"], keepdims=1),
        helper.make_node("Mul", ["least", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "found"], ["noise"]),
        helper.make_node("Mul", ["sigma", "minus_found"], ["estimated"]),
        helper.make_node("Less", ["sigma", "zero"], ["unknown"]),
        helper.make_node("Where", ["unknown", "estimated", "sigma"], ["level"]),
        helper.make_node("Sub", ["image", "level"], ["restored"]),
    ]
    numbers = {"zero": 0, "found": FOUND, "minus_found": -FOUND}
    initializers = [
        numpy_helper.from_array(np.full((1, 1, 1, 1), value, np.float32), name)
        for name, value in numbers.items()
    ]
    return tiny_onnx(nodes, initializers=initializers, outputs=("restored", "noise"))


def brightness_as_noise_onnx() -> bytes:
    """Takes the brightness of every 16 pixels for noise, and returns image - what it is told."""
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["grey"], axes=[1]),
        helper.make_node(
            "AveragePool", ["grey"], ["noise"], kernel_shape=[16, 16], strides=[16, 16]
        ),
        helper.make_node("Sub", ["image", "sigma"], ["restored"]),
    ]
    return tiny_onnx(nodes, outputs=("restored", "noise"), stride=16, halo=16)


def surroundings_as_noise_onnx() -> bytes:
    """As that, but of the 80 x 80 pixels around them; only the noise needs any context."""
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["grey"], axes=[1]),
        helper.make_node(
            "AveragePool",
            ["grey"],
            ["noise"],
            kernel_shape=[80, 80],
            strides=[16, 16],
            pads=[32] * 4,
        ),
        helper.make_node("Sub", ["image", "sigma"], ["restored"]),
    ]
    return tiny_onnx(nodes, outputs=("restored", "noise"), stride=16, halo=0, noise_halo=32)


def minus_sigma_onnx() -> bytes:
    """Returns image - sigma: shows what level reached the model."""
    return tiny_onnx([helper.make_node("Sub", ["image", "sigma"], ["restored"])])


def filling_onnx(value: float = 0.25) -> bytes:
    """Fills holes with `value`, and makes everything else black, which must never show."""
    nodes = [
        helper.make_node("Greater", ["hole", "zero"], ["inside"]),
        helper.make_node("Mul", ["image", "zero"], ["black"]),
        helper.make_node("Where", ["inside", "value", "black"], ["restored"]),
    ]
    numbers = {"zero": 0, "value": value}
    initializers = [
        numpy_helper.from_array(np.full((1, 1, 1, 1), number, np.float32), name)
        for name, number in numbers.items()
    ]
    return tiny_onnx(nodes, inputs=("image", "hole"), initializers=initializers)


@pytest.fixture(scope="session")
def identity() -> Model:
    return Model(tiny_onnx(), device="cpu")


@pytest.fixture(scope="session")
def identity_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "identity.onnx"
    path.write_bytes(tiny_onnx())
    return path


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def srgb() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.fixture(scope="session")
def photo() -> np.ndarray:
    """The shipped sample without noise, (512, 512, 3) uint8."""
    return np.array(Image.open(SAMPLE / "clean.png"))


class Result:
    """What a command did."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def run_denoise(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Result]:
    """Run `denoise`, or another command, in this process."""
    mains = {
        "denoise": cli.denoise_main,
        "denoiser": cli.denoiser_main,
        "inpaint": inpaint_cli.inpaint_main,
    }

    def call(*arguments: object, command: str = "denoise") -> Result:
        monkeypatch.setattr(sys, "argv", [command, *map(str, arguments)])
        monkeypatch.setattr("signal.signal", lambda *_: None)
        capfd.readouterr()
        with pytest.raises(SystemExit) as exit:
            mains[command]()
        out, err = capfd.readouterr()
        return Result(exit.value.code, out, err)  # type: ignore[arg-type]

    return call
