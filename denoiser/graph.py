"""Models as graphs: parts of them that run alone; onnxruntime would compute the rest, too."""

from pathlib import Path
from typing import TYPE_CHECKING

from denoiser.errors import ModelError

if TYPE_CHECKING:
    import onnx


def parse(data: bytes) -> "onnx.ModelProto":
    """Read an ONNX file, late: onnx takes its time to import.

    Raises:
        Exception: Whatever protobuf raises on what is not one.
    """
    from onnx import load_from_string

    return load_from_string(data)


def with_its_weights(data: bytes, folder: Path | None) -> bytes:
    """Take in what an ONNX file keeps in other files beside it, as torch's exporter may leave it.

    Raises:
        Exception: They cannot be read, or no folder is known.
    """
    if b"location" not in data:  # the key by which a tensor names its file
        return data
    from onnx.external_data_helper import load_external_data_for_model, uses_external_data

    model = parse(data)
    if not any(uses_external_data(tensor) for tensor in model.graph.initializer):
        return data
    if folder is None:
        raise ValueError("its weights lie in another file")
    load_external_data_for_model(model, str(folder))
    return bytes(model.SerializeToString())


def part_of(data: bytes, inputs: list[str], output: str) -> bytes:
    """Cut out of a model what leads from some of its values to another.

    Raises:
        ModelError: Nothing does.
    """
    return _extract(parse(data), inputs, output)


def without_estimator(data: bytes, inputs: list[str], output: str) -> bytes | None:
    """Cut the estimator off a model, for noise levels that are not negative.

    Returns:
        The model in which `sigma` takes the place of `where(sigma < limit, ..., sigma)`; None if
        it does not choose like that.
    """
    model = parse(data)
    nodes = model.graph.node
    below = {
        node.output[0] for node in nodes if node.op_type == "Less" and node.input[0] == "sigma"
    }
    chosen = {
        node.output[0]
        for node in nodes
        if node.op_type == "Where" and node.input[0] in below and node.input[2] == "sigma"
    }
    for node in nodes:
        node.input[:] = ["sigma" if name in chosen else name for name in node.input]
    return _extract(model, inputs, output) if chosen else None


def _extract(model: "onnx.ModelProto", inputs: list[str], output: str) -> bytes:
    from onnx.utils import Extractor

    try:
        part = Extractor(model).extract_model(inputs, [output])
    except ValueError as error:
        raise ModelError(f"the model cannot be taken apart: {error}") from error
    return bytes(part.SerializeToString())
