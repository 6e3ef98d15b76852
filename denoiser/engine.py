"""The only importer of onnxruntime: providers, sessions, precision."""

import contextlib
import ctypes
import hashlib
import importlib.metadata
import io
import os
import platform
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from denoiser import graph, tiles
from denoiser.contract import Contract, parse_contract
from denoiser.errors import IN_FOLDER, ArgumentError, DeviceError, ModelError, OutOfMemoryError
from denoiser.signals import uninterrupted

if TYPE_CHECKING:
    import onnxruntime

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
Precision = Literal["auto", "fp32", "fp16"]
OUT_OF_MEMORY = ("Failed to allocate memory", "bad_alloc", "out of memory", "ALLOC_FAILED")
"""What errors of onnxruntime, CUDA, cuDNN and cuBLAS say where memory is short."""
CUDA_FIX = f"{IN_FOLDER} pip install '.[cuda]'"
VIEWS = tuple((turned, axes) for turned in (False, True) for axes in ((), (2, 3), (2,), (3,)))
"""Whether rows and columns of a batch change places, and along which axes it is mirrored then; the
first 1, 2, 4 and 8 of them are groups."""
FOREIGN_STRIDES = (16, 32, 64)
"""What height and width may have to be multiples of in a model that does not say it."""


class Model:
    """A loaded model on the device it really runs on."""

    def __init__(
        self,
        source: Path | bytes,
        *,
        device: str = "auto",
        require_gpu: bool = False,
        precision: Precision = "auto",
        threads: int = 0,
        views: int = 1,
    ) -> None:
        """Load a model and run one tile on its device.

        Args:
            source: An ONNX file, or its bytes.
            device: "auto" (a GPU if one works), "cpu", "cuda" or "cuda:N".
            require_gpu: Fail rather than run on the CPU.
            precision: "fp16" computes in half precision on a GPU; "auto" does so there only.
            threads: CPU threads, at most one per core; 0 leaves the choice to onnxruntime.
            views: 1, 2, 4 or 8: of how many mirrored and turned views of a batch `run` gives the
                mean (self-ensemble; Timofte et al. 2016), in as many times the time.

        Raises:
            ArgumentError: No such device, a negative number of threads, or another number of views.
            DeviceError: A GPU was asked for and is not usable.
            ModelError: No such file, no ONNX, or not the inputs and outputs of a restorer.
        """
        self.name = str(source) if isinstance(source, Path) else "model"
        index = _device_index(device)
        if not isinstance(threads, int) or threads < 0:
            raise ArgumentError(f"threads must be 0 or more, not {threads!r}")
        if not isinstance(views, int) or views not in (1, 2, 4, 8):
            raise ArgumentError(f"views must be 1, 2, 4 or 8, not {views!r}")
        self.device = device
        self.threads = min(threads, os.cpu_count() or 1)  # more only wait for each other
        self.views = views
        self.precision = "fp32"
        self.fallback: str | None = None
        """Why no GPU is used although one would have been welcome; None if one is, or none was."""
        onnx = self._read(source)
        self.sha256 = hashlib.sha256(onnx).hexdigest()
        self._session: onnxruntime.InferenceSession | None = None
        # parts of a model that estimates, opened when they are wanted
        self._estimator: onnxruntime.InferenceSession | None = None
        self._restorer: onnxruntime.InferenceSession | None = None
        if index is not None:
            self.fallback = gpu_problem()
            if self.fallback is None:
                self._try_gpu(onnx, index, precision)
        elif require_gpu:
            raise DeviceError("--require-gpu contradicts --device cpu")
        if self._session is None:
            self._start(onnx, [CPU], "fp32")  # where the model is to blame, this says so
            if self.fallback and (require_gpu or device != "auto"):
                raise DeviceError(f"no usable GPU: {self.fallback}")
            if precision == "fp16":
                raise DeviceError("fp16 needs a GPU: use --precision fp32")

    @property
    def provider(self) -> str:
        """The execution provider that runs the model, by onnxruntime's full name."""
        assert self._session is not None
        return str(self._session.get_providers()[0])

    def run(self, image: np.ndarray, guide: np.ndarray | None = None) -> np.ndarray:
        """Restore a batch.

        Args:
            image: (N, 3, H, W) float32 in [0, 1]; H and W multiples of the contract's stride.
            guide: (N, 1, H, W) float32, for a model that takes `sigma` the noise level in [0, 1]
                units, for one that takes `hole` 1 in the hole; ignored by others.

        Returns:
            (N, 3, H, W) float32.

        Raises:
            OutOfMemoryError: The device's memory does not suffice.
            ModelError: The model cannot run on this batch, or returned NaN.
        """
        total = self._restore(image, guide)
        for turned, axes in VIEWS[1 : self.views]:
            seen = [_view(batch, turned, axes) for batch in (image, guide) if batch is not None]
            restored = np.flip(self._restore(*seen), axes)
            total += restored.swapaxes(2, 3) if turned else restored
        if self.views > 1:
            total /= np.float32(self.views)
        return total

    def _restore(self, image: np.ndarray, guide: np.ndarray | None = None) -> np.ndarray:
        """Restore one view."""
        session, feeds = self._session, self._feeds(image, guide)
        if self.contract.estimates and guide is not None and guide.min() >= 0:
            if self._restorer is None:
                part = graph.without_estimator(self._onnx, list(feeds), self._outputs[0])
                self._restorer = self._open(part) if part else self._session
            session = self._restorer
        restored = self._run(session, self._outputs[:1], feeds)[0]
        if restored.dtype.kind != "f":
            raise ModelError(f"{self.name} is not a restorer: it gives {restored.dtype}")
        if not np.isfinite(restored).all():
            raise ModelError(f"{self.name} returned NaN{self._hint()}")
        if restored.shape != image.shape:
            shapes = f"{image.shape} became {restored.shape}"
            raise ModelError(f"{self.name} is not a restorer, or its stride is wrong: {shapes}")
        return restored

    def run_with_noise(
        self, image: np.ndarray, guide: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Restore one view of a batch; also return the estimated noise map, if there is one.

        Returns:
            (N, 3, H, W) float32, and (N, 1, h, w) float32 from a model that estimates; of the
            released ones h = H / 8, w = W / 8.
        """
        found = self._run(self._session, self._outputs, self._feeds(image, guide))
        return found[0], self._checked_noise(found[1]) if len(found) > 1 else None

    def estimate(self, image: np.ndarray) -> np.ndarray:
        """Estimate the noise of a batch without restoring it, which takes a tenth of the time.

        Args:
            image: As of `run`; the contract's `estimates` must hold.

        Returns:
            (N, 1, h, w) as of `run_with_noise`.

        Raises:
            OutOfMemoryError: The device's memory does not suffice.
            ModelError: The model cannot run on this batch, or returned no noise map.
        """
        feeds, output = self._feeds(image), self._outputs[1]
        if self._estimator is None:
            self._estimator = self._open(graph.part_of(self._onnx, list(feeds), output))
        return self._checked_noise(self._run(self._estimator, [output], feeds)[0])

    def _checked_noise(self, noise: np.ndarray) -> np.ndarray:
        if noise.ndim != 4 or noise.shape[1] != 1 or not np.isfinite(noise).all():
            raise ModelError(
                f"{self.name} returned no noise map (N, 1, h, w), or NaN in it{self._hint()}"
            )
        return np.asarray(np.maximum(noise, 0))

    def _hint(self) -> str:
        """What to try where a model returns NaN, to stand at the end of a line."""
        return ": try --precision fp32" if self.precision == "fp16" else ""

    def _feeds(self, image: np.ndarray, guide: np.ndarray | None = None) -> dict[str, np.ndarray]:
        feeds = {self._inputs["image"]: image}
        if guide is not None:
            feeds |= {self._inputs[name]: guide for name in self._inputs if name != "image"}
        return feeds

    def _run(
        self,
        session: "onnxruntime.InferenceSession | None",
        outputs: list[str],
        feeds: dict[str, np.ndarray],
    ) -> list[np.ndarray]:
        assert session is not None
        try:
            found: list[np.ndarray] = session.run(outputs, feeds)
        except Exception as error:  # onnxruntime has no common base class for its errors
            text = str(error)
            if any(sign in text for sign in OUT_OF_MEMORY):
                raise OutOfMemoryError(f"out of memory on {self.provider}") from error
            raise ModelError(f"{self.name} failed: {_short(text)}") from error
        return found

    def _read(self, source: Path | bytes) -> bytes:
        try:
            onnx = source if isinstance(source, bytes) else source.read_bytes()
        except OSError as error:
            raise ModelError(f"cannot read model {self.name}: {error.strerror}") from error
        try:
            return graph.with_its_weights(onnx, source.parent if isinstance(source, Path) else None)
        except Exception as error:  # protobuf and onnx raise many kinds
            reason = f"{self.name} cannot be read with its weights: {_short(str(error))}"
            raise ModelError(reason) from error

    def _open(self, onnx: bytes) -> "onnxruntime.InferenceSession":
        runtime = load_runtime()
        options = runtime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = self.threads
        # else the threads of one session would hinder those of the next for a while
        options.add_session_config_entry("session.force_spinning_stop", "1")
        try:
            if self.precision == "fp16":
                onnx = _to_half(onnx)
            return runtime.InferenceSession(onnx, options, providers=self._providers)
        except Exception as error:
            reason = _short(str(error))
            raise ModelError(f"{self.name} is not a usable ONNX model: {reason}") from error

    def _try_gpu(self, onnx: bytes, index: int, precision: Precision) -> None:
        """Open the session on the GPU; if it does not end up there, say why in `fallback`."""
        with contextlib.redirect_stdout(io.StringIO()):  # where pictures may be written to
            load_runtime().preload_dlls()
        options = {"device_id": index, "cudnn_conv_algo_search": "HEURISTIC"}
        for used in ("fp16", "fp32") if precision == "auto" else (precision,):
            try:
                self._start(onnx, [(CUDA, options), CPU], used)
            except (ModelError, OutOfMemoryError) as error:
                self.fallback = str(error)
                continue
            self.fallback = None
            if self.provider != CUDA:
                self.fallback = f"onnxruntime could not load its CUDA libraries: {CUDA_FIX}"
            break
        if self.fallback:
            self._session = None

    def _contracts(self) -> list[tuple[Contract, int]]:
        """Read the metadata, or work out how to use a model that has none.

        Returns:
            What may be promised, each with the side of a tile that can only work if it is.
        """
        assert self._session is not None
        found = self._session.get_modelmeta().custom_metadata_map
        inputs = {node.name: node for node in self._session.get_inputs()}
        outputs = [node.name for node in self._session.get_outputs()]
        if "task" in found:
            allowed = ({"image"}, {"image", "sigma"}, {"image", "hole"})
            result = "cover" if found["task"] == "detect" else "restored"
            if set(inputs) not in allowed or result not in outputs:
                raise ModelError(f"{self.name} breaks the model contract: inputs {sorted(inputs)}")
            self._inputs = {name: name for name in inputs}
            estimates = "sigma" in inputs and "noise" in outputs
            self._outputs = [result, "noise"] if estimates else [result]
            contract = parse_contract(self.name, found, tuple(inputs), estimates)
            return [(contract, tiles.padded(32, contract.stride))]
        images = [node for node in inputs.values() if len(node.shape) == 4 and node.shape[1] == 3]
        if len(inputs) != 1 or len(images) != 1 or images[0].type != "tensor(float)":
            raise ModelError(
                f"{self.name} is not a restorer: it needs one float32 input of (N, 3, H, W),"
                f" it has {', '.join(f'{node.name} {node.shape}' for node in inputs.values())}"
            )
        count, _, *sides = images[0].shape
        if any(isinstance(side, int) for side in sides):
            raise ModelError(
                f"{self.name} takes images of one size only: export it with a height and a width"
                " that are not fixed"
            )
        self._inputs, self._outputs = {"image": images[0].name}, outputs[:1]
        stacks, name = not isinstance(count, int), Path(self.name).stem
        return [
            (Contract(inputs=("image",), stride=stride, stacks=stacks, name=name), 5 * stride)
            for stride in FOREIGN_STRIDES
        ]

    def _start(self, onnx: bytes, providers: list[Any], precision: str) -> None:
        """Open a session and run one small tile: only this shows that it works."""
        self._onnx, self._providers, self.precision = onnx, providers, precision
        self._estimator = self._restorer = None  # those of a GPU that did not work
        self._session = self._open(onnx)
        candidates = self._contracts()
        for self.contract, side in candidates:
            image = np.linspace(0.2, 0.8, 3 * side**2, dtype=np.float32).reshape(1, 3, side, side)
            try:
                self._restore(image, image[:, :1])
                break
            except ModelError:
                if self.contract is candidates[-1][0]:
                    raise


def _view(batch: np.ndarray, turned: bool, axes: tuple[int, ...]) -> np.ndarray:
    """Give one of the `VIEWS` of (N, C, H, W), contiguous."""
    return np.ascontiguousarray(np.flip(batch.swapaxes(2, 3) if turned else batch, axes))


def _short(text: str) -> str:
    """One line of what onnxruntime says, whose first may break off in the middle."""
    return " ".join(text.split())[:300]


def _device_index(device: str) -> int | None:
    """GPU number that `device` names; None for the CPU."""
    if device == "cpu":
        return None
    found = re.fullmatch(r"auto|cuda(?::([0-9]+))?", str(device))
    if not found:
        raise ArgumentError(f"unknown device {device!r}: use auto, cpu, cuda or cuda:N")
    return int(found[1] or 0)


def gpu_problem() -> str | None:
    """Say why CUDA cannot be used here, or None if nothing speaks against it so far."""
    if CUDA not in load_runtime().get_available_providers():
        there_is_one = sys.platform != "darwin" and platform.machine() in ("x86_64", "AMD64")
        fix = f": {CUDA_FIX}" if there_is_one else ""
        return f"this onnxruntime is built without CUDA{fix}"
    library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(library)
    except OSError:
        return f"no NVIDIA driver ({library} is missing)"
    count = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return "the NVIDIA driver finds no GPU"
    return None


def _to_half(onnx: bytes) -> bytes:
    """Convert to fp16 inside, with float32 inputs and outputs."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = convert_float_to_float16(graph.parse(onnx), keep_io_types=True)
    return bytes(model.SerializeToString())


def load_runtime() -> Any:
    """Import onnxruntime, late: it costs more than everything else that `--help` needs.

    Its official builds keep a number for the machine in the user's cache and tell Microsoft of
    their sessions, unless they are told not to before they are loaded (see its Privacy.md).

    Raises:
        ModelError: It is missing or broken.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    try:
        with uninterrupted():
            import onnxruntime

        found = hasattr(onnxruntime, "InferenceSession")
    except ImportError:
        found = False
    if not found:  # as when two distributions overwrote each other
        fix = distribution_problem() or f"{IN_FOLDER} pip install --force-reinstall ."
        raise ModelError(f"onnxruntime cannot be loaded: {fix}")
    onnxruntime.disable_telemetry_events()  # of Windows, which does not heed the variable
    onnxruntime.set_default_logger_severity(4)
    return onnxruntime


def runtime_version() -> str:
    """Version of onnxruntime."""
    return str(load_runtime().__version__)


def distribution_problem() -> str | None:
    """Say how to mend two onnxruntime distributions installed together; None if there is one."""
    names = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino")
    present = []
    for name in names:
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        present.append(name)
    if len(present) < 2:
        return None
    return (
        f"{' and '.join(present)} are installed together and break each other:"
        f" pip uninstall {' '.join(present)}, then {IN_FOLDER} pip install ."
    )
