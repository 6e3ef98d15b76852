"""The engine on a pipe, as an editor uses it."""

import io
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import filling_onnx, minus_sigma_onnx

import denoiser
from denoiser import pipe
from denoiser.errors import InputError, OutputError, explain
from denoiser.pipe import PROTOCOL


class Client:
    """The engine as a child process."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "denoiser", "pipe"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.hello = self.line()

    def line(self) -> dict[str, Any]:
        return json.loads(self.process.stdout.readline())

    def send(self, header: dict, *arrays: np.ndarray) -> None:
        self.process.stdin.write(json.dumps(header).encode() + b"\n")
        for array in arrays:
            self.process.stdin.write(array.tobytes())
        self.process.stdin.flush()

    def ask(self, pixels: np.ndarray, *mask: np.ndarray, **header: Any) -> dict[str, Any]:
        mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[pixels.shape[2]]
        shape = {"width": pixels.shape[1], "height": pixels.shape[0]}
        defaults = {"task": "denoise", "mode": mode, "type": pixels.dtype.name, "device": "cpu"}
        self.send(defaults | shape | header, pixels, *mask)
        while "progress" in (answer := self.line()):
            assert 0 <= answer["progress"] <= 1
        return answer

    def read(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        count = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return np.frombuffer(self.process.stdout.read(count), dtype).reshape(shape)


@pytest.fixture(scope="module")
def engine() -> Iterator[Client]:
    client = Client()
    yield client
    client.process.communicate()  # closes its standard input
    assert client.process.returncode == 0


def test_it_says_who_it_is(engine):
    assert engine.hello == {"protocol": PROTOCOL, "denoiser": denoiser.__version__}


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_pixels_are_those_of_the_library(engine, photo, dtype):
    scale = {"uint8": 1, "uint16": 257, "float32": 1 / 255}[dtype]
    pixels = (photo[:64, :80].astype(float) * scale).astype(dtype)
    answer = engine.ask(pixels, model="fast", id=7)
    assert answer["id"] == 7 and answer["done"] and answer["sigma_estimated"]
    restored = engine.read(pixels.shape, dtype)
    np.testing.assert_array_equal(restored, denoiser.denoise(pixels, model="fast"))


def test_options_reach_the_model(engine, tmp_path, rng):
    path = tmp_path / "minus.onnx"
    path.write_bytes(minus_sigma_onnx())
    pixels = rng.integers(60, 255, (40, 30, 4), np.uint8)
    options = {"sigma": 20, "strength": 0.5, "chroma": 0, "keep": [3, 5, 20, 30]}
    answer = engine.ask(pixels, model=str(path), **options)
    assert answer["sigma"] == 20 and answer["model"] == "tiny"
    expected = pixels.copy()
    expected[..., :3] -= 10
    np.testing.assert_array_equal(engine.read((30, 20, 4), np.uint8), expected[5:35, 3:23])


def test_holes_are_filled_and_told(engine, tmp_path, rng):
    path = tmp_path / "quarter.onnx"
    path.write_bytes(filling_onnx(0.25))
    pixels = rng.integers(100, 255, (80, 90, 2), np.uint8)
    mask = np.zeros((80, 90), np.uint8)
    mask[30:40, 20:50] = 255
    answer = engine.ask(pixels, mask, task="inpaint", model=str(path), grow=2, grain=0)
    assert answer["done"]
    filled, changed = engine.read(pixels.shape, np.uint8), engine.read(mask.shape, np.uint8)
    assert set(np.unique(changed)) == {0, 255} and (changed[28:42, 20:50] == 255).all()
    np.testing.assert_array_equal(filled[..., 1], pixels[..., 1])
    np.testing.assert_array_equal(filled[..., 0], np.where(changed > 0, 64, pixels[..., 0]))
    answer = engine.ask(pixels, np.zeros_like(mask), task="inpaint", model=str(path))
    assert "the mask is empty" in answer["error"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": "none"}, "no model 'none'"),
        ({"sigma": "much"}, "sigma must be a number"),
        ({"sigma": 300}, "sigma must be a number from 0 to 255, not 300"),
        ({"strength": 2}, "strength must be a number from 0 to 1"),
        ({"chroma": None}, "chroma must be a number from 0 to 1"),
        ({"keep": [0, 0, 99, 1]}, "keep must be"),
        ({"device": "abacus"}, "abacus"),
        ({"device": ["cpu"]}, "device must be a text"),
        ({"stength": 0.5}, "to denoise takes no stength"),
        ({"white": 2}, "white must be 1 or 'auto'"),
    ],
)
def test_errors_are_told_and_the_engine_goes_on(engine, options, words):
    pixels = np.full((16, 16, 1), 128, np.uint8)
    assert words in engine.ask(pixels, **{"model": "fast"} | options)["error"]
    assert engine.ask(pixels, model="fast")["done"]
    engine.read(pixels.shape, np.uint8)


def test_of_floating_point_with_a_white_of_one_the_largest_stays_and_spoils_nothing(engine, photo):
    pixels = photo[:64, :80].astype(np.float32) / 255
    hot = pixels.copy()
    hot[10, 10], hot[50, 60] = 1000, -1000
    found = []
    for each, warned in ((pixels, 0), (hot, 1)):
        answer = engine.ask(each, model="fast", sigma=10, white=1)
        assert answer["done"] and len(answer["warnings"]) == warned
        found.append(engine.read(pixels.shape, np.float32))
    np.testing.assert_array_equal(found[1][[10, 50], [10, 60]], hot[[10, 50], [10, 60]])
    assert np.abs(found[1] - found[0])[20:40, 20:50].max() < 0.1
    mask = np.zeros((64, 80), np.uint8)
    mask[5:15, 5:15] = 255
    assert engine.ask(hot, mask, task="inpaint", white=1)["done"]
    filled = engine.read(pixels.shape, np.float32)
    assert filled[10, 10].max() < 1.5 and (filled[50, 60] == -1000).all()
    engine.read(mask.shape, np.uint8)
    assert "grow must be a whole number" in engine.ask(hot, mask, task="inpaint", grow=2.9)["error"]


def test_a_request_that_does_not_fit_into_memory_is_answered(monkeypatch):
    header = {"task": "denoise", "mode": "RGBA", "type": "float32", "width": 9, "height": 9}

    def lack(*_, **__):
        raise MemoryError

    monkeypatch.setattr(pipe.np, "empty", lack)
    sink = io.BytesIO()
    with pytest.raises(MemoryError):
        pipe.serve(io.BytesIO(json.dumps(header).encode() + b"\n"), sink)
    assert json.loads(sink.getvalue().splitlines()[-1]) == {"error": "not enough memory"}
    assert explain(MemoryError())[1] == 2  # with which it ends


def test_a_standard_input_that_cannot_be_read_is_told(tmp_path):
    command = [sys.executable, "-m", "denoiser", "pipe"]
    with (tmp_path / "written").open("wb") as file:
        done = subprocess.run(command, stdin=file, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: cannot read standard input")


def test_closed_streams_are_told(monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(InputError, match="standard input is closed"):
        pipe.serve_standard_streams()
    monkeypatch.undo()
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(OutputError, match="standard output is closed"):
        pipe.serve_standard_streams()


def test_a_newer_request_ends_the_one_before(engine, rng):
    large = rng.integers(0, 255, (3000, 3000, 3), np.uint8)
    header = {"task": "denoise", "mode": "RGB", "type": "uint8", "width": 3000, "height": 3000}
    engine.send(header | {"id": "old"}, large)
    assert engine.line()["progress"] >= 0
    answer = engine.ask(large[:32, :32], id="new", model="fast")
    assert answer == {"id": "old", "cancelled": True}
    assert engine.line()["id"] == "new" and engine.read((32, 32, 3), np.uint8).size
    engine.send(header | {"id": "old"}, large)
    assert engine.line()["progress"] >= 0
    engine.send({"task": "cancel"})
    while "progress" in (answer := engine.line()):
        pass
    assert answer == {"id": "old", "cancelled": True}


def start_working(side, rng):
    """Start an engine on a picture that takes a while."""
    client = Client()
    large = rng.integers(0, 255, (side, side, 3), np.uint8)
    header = {"task": "denoise", "mode": "RGB", "type": "uint8", "width": side, "height": side}
    client.send(header, large)
    client.line()
    return client


def test_the_end_of_standard_input_ends_it_in_the_midst_of_work(rng):
    client = start_working(3000, rng)
    closed = time.monotonic()
    client.process.communicate()
    assert client.process.returncode == 0
    assert time.monotonic() - closed < 5  # the picture takes longer


def test_sigterm_ends_it_while_it_waits():
    client = Client()
    time.sleep(0.2)  # until it reads
    client.process.terminate()
    client.process.wait(timeout=30)  # before its standard input ends, which would end it with 0
    _, err = client.process.communicate()
    assert (client.process.returncode, err) == (130, b"")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("nonsense", "bad request"),
        ('{"task": "denoise", "width": 4, "height": 4, "type": "uint8"}', "lacks 'mode'"),
        ('{"task": "paint", "width": 4, "height": 4, "mode": "L", "type": "uint8"}', "task"),
        ('{"task": "denoise", "width": -4, "height": 4, "mode": "L", "type": "uint8"}', "width"),
        ('{"task": "denoise", "width": 1e9, "height": 9, "mode": "L", "type": "uint8"}', "whole"),
        ('{"task": "denoise", "width": 99999, "height": 99999}', "300 megapixels"),
        ("[]", "bad request"),
        ("[" * 100_000, "nested too deeply"),
        ('{"id": NaN}', "NaN is not JSON"),
        ('{"id": 1e999}', "1e999 is too large a number"),
        ('{"task": ["denoise"], "width": 4, "height": 4, "mode": "L", "type": "uint8"}', "task"),
    ],
)
def test_what_cannot_be_read_ends_it(line, words):
    client = Client()
    client.process.stdin.write(line.encode() + b"\n")
    client.process.stdin.flush()
    assert words in client.line()["error"]
    error = client.process.communicate()[1].decode()
    assert client.process.returncode == 1 and error.startswith("error: bad request")
    assert "Traceback" not in error


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_standard_output_is_told_while_standard_input_is_open():
    with Path("/dev/full").open("wb") as full:
        process = subprocess.Popen(
            [sys.executable, "-m", "denoiser", "pipe"],
            stdin=subprocess.PIPE,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
        process.wait(timeout=60)
    _, error = process.communicate()
    assert process.returncode == 5
    assert error == "error: cannot write to standard output: No space left on device\n"


def test_an_editor_that_goes_away_in_the_midst_of_work_gets_no_traceback(rng):
    client = start_working(1500, rng)
    client.process.stdout.close()
    with client.process:
        client.process.wait(timeout=60)  # before its standard input ends
        assert (client.process.returncode, client.process.stderr.read()) == (0, b"")


def test_the_documented_example_runs():
    text = (Path(__file__).parent.parent / "docs" / "pipe.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    code += "assert len(pixels) == 64 * 48 and engine.wait() == 0"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
