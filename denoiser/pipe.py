"""The engine on a pipe, for editors: docs/pipe.md describes the protocol."""

import contextlib
import dataclasses
import errno
import json
import math
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import numpy as np

from denoiser import __version__, load_model
from denoiser.arrays import Progress
from denoiser.console import fail
from denoiser.errors import INTERRUPTED, ArgumentError, DenoiserError, InputError, OutputError
from denoiser.job import Denoising, Inpainting, facts
from denoiser.picture import LARGEST_FLOAT, LARGEST_MP, Picture

PROTOCOL = 1
CHANNELS = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}
TYPES = {"uint8": "u1", "uint16": "<u2", "float32": "<f4"}
BAND_BYTES = 1 << 22
OPTIONS = {"denoise": {"sigma", "strength", "chroma"}, "inpaint": {"grow", "feather", "grain"}}
KEYS = {"task", "width", "height", "mode", "type", "white", "keep", "id", "model", "device"}
"""Of every request, beside the options of its task."""
PROGRESS_S = 0.1
"""Least time between two lines of progress."""


class _Superseded(Exception):
    """A newer request came while this one was worked on."""


class _End(Exception):
    """Standard input has ended."""


@dataclasses.dataclass
class _Request:
    number: int
    header: dict[str, Any]
    pixels: np.ndarray
    """(H, W, C)."""
    mask: np.ndarray | None
    """(H, W) uint8, of inpainting."""


class _Client:
    """Whoever sits at the other end: a thread listens, so that its going away is noticed."""

    def __init__(self, source: BinaryIO, sink: BinaryIO) -> None:
        self._source, self._sink = source, sink
        self._requests: queue.SimpleQueue[_Request | Exception] = queue.SimpleQueue()
        self.newest = 0
        """Number of the last request, or `cancel`, that has begun to arrive."""
        self.tell({"protocol": PROTOCOL, "denoiser": __version__})  # `_listen` may end us
        threading.Thread(target=self._listen, daemon=True).start()

    def next(self) -> _Request:
        """Wait for a request.

        Raises:
            ArgumentError: It makes no sense, and neither does what follows.
        """
        request = self._requests.get()
        if isinstance(request, Exception):
            raise request
        return request

    def tell(self, line: dict[str, Any]) -> None:
        """Send a line.

        Raises:
            OutputError: Nobody takes it.
        """
        with _sending():
            self._sink.write(json.dumps(line).encode() + b"\n")
            self._sink.flush()

    def send(self, values: np.ndarray) -> None:
        """Send raw values, rows in order, in bands so that no second copy is held.

        Raises:
            OutputError: Nobody takes them.
        """
        rows = max(1, BAND_BYTES // max(1, values[:1].nbytes))
        with _sending():
            for start in range(0, len(values), rows):
                self._sink.write(np.ascontiguousarray(values[start : start + rows]).data)
            self._sink.flush()

    def _listen(self) -> None:
        try:
            while True:
                line = self._source.readline()
                if not line:
                    raise _End
                header = _parse(line)
                self.newest += 1
                if header["task"] != "cancel":
                    self._requests.put(self._receive(self.newest, header))
        except _End:
            os._exit(0)  # nobody is left to answer, and the main thread may be computing
        except OSError as error:
            self._requests.put(InputError(f"cannot read standard input: {error.strerror}"))
        except Exception as error:
            self._requests.put(error)

    def _receive(self, number: int, header: dict[str, Any]) -> _Request:
        """Read the pixels, and the mask, that follow a header."""
        height, width, mode = header["height"], header["width"], header["mode"]
        pixels = np.empty((height, width, CHANNELS[mode]), TYPES[header["type"]])
        mask = np.empty((height, width), np.uint8) if header["task"] == "inpaint" else None
        for values in (pixels, mask):
            if values is not None:
                self._fill(values.data.cast("B"))
        return _Request(number, header, pixels, mask)

    def _fill(self, target: memoryview) -> None:
        while target.nbytes:
            count = self._source.readinto(target)  # type: ignore[attr-defined]
            if not count:
                raise _End
            target = target[count:]


@contextlib.contextmanager
def _sending() -> Iterator[None]:
    """Make what goes wrong with standard output ours."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot write to standard output: {error.strerror}") from error


def _parse(line: bytes) -> dict[str, Any]:
    """Read a header.

    Raises:
        ArgumentError: What follows it cannot be read without what is missing.
    """
    try:
        header: dict[str, Any] = json.loads(line, parse_constant=_refuse, parse_float=_finite)
        if not isinstance(header, dict):
            raise ValueError("it must be an object of JSON")
        if header["task"] == "cancel":
            return header
        sides = (header["width"], header["height"])
        if not all(type(side) is int and side > 0 for side in sides):
            raise ValueError("width and height must be positive whole numbers")
        if sides[0] * sides[1] > LARGEST_MP * 1e6:
            raise ValueError(f"more than {LARGEST_MP} megapixels")
        for key, known in (("mode", CHANNELS), ("type", TYPES), ("task", (*OPTIONS, "cancel"))):
            if not isinstance(header[key], str) or header[key] not in known:
                raise ValueError(f"{key} must be one of {', '.join(known)}")
        return header
    except (ValueError, TypeError, KeyError) as error:
        problem = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise ArgumentError(f"bad request: {problem}") from error
    except RecursionError:
        raise ArgumentError("bad request: it is nested too deeply") from None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _finite(text: str) -> float:
    """Read a number, which sent back must not be Infinity."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is too large a number")
    return number


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Answer requests until `source` ends, which ends the process at once.

    Args:
        source: Requests: a line of JSON, then raw pixels.
        sink: Answers: lines of JSON, the last of them followed by raw pixels.

    Raises:
        ArgumentError: A request makes no sense; its sender was told.
        InputError: `source` cannot be read.
        OutputError: `sink` takes no answer.
        MemoryError: There is no room for one; its sender was told.
    """
    client = _Client(source, sink)
    while True:
        try:
            request = client.next()
        except Exception as error:
            client.tell({"error": _reason(error)})
            raise
        _answer(client, request)


def _answer(client: _Client, request: _Request) -> None:
    """Restore what is asked and send it, or say why not."""
    reply = {"id": request.header.get("id")}
    told = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal told
        if client.newest > request.number:
            raise _Superseded
        if time.monotonic() - told > PROGRESS_S:
            told = time.monotonic()
            client.tell(reply | {"progress": round(done / total, 4)})

    try:
        result, report = _restore(request, progress)
    except _Superseded:
        client.tell(reply | {"cancelled": True})
    except OutputError:  # of the progress
        raise
    except Exception as error:  # the editor shall say more than "the engine died"
        if not isinstance(error, DenoiserError | MemoryError):
            traceback.print_exc()
        client.tell(reply | {"error": _reason(error)})
    else:
        client.tell(reply | {"done": True} | report)
        for values in result:
            client.send(values)


def _reason(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "not enough memory"
    return str(error) if isinstance(error, DenoiserError) else f"internal error: {error!r}"


def _restore(request: _Request, progress: Progress) -> tuple[list[np.ndarray], dict[str, Any]]:
    """Do what is asked; the pixels to send back, and what is to be told of them."""
    header, pixels = request.header, request.pixels
    if unknown := sorted(header.keys() - KEYS - OPTIONS[header["task"]]):
        raise ArgumentError(f"to {header['task']} takes no {', '.join(unknown)}")
    progress(0, 1)
    picture = Picture(pixels, header["mode"], "PNG")
    model = load_model(
        _text(header, "model"), task=header["task"], device=_text(header, "device") or "auto"
    )
    kept = _kept(header, pixels.shape)
    put_back = _set_aside(header, picture.colours)
    if request.mask is None:
        sigma = header.get("sigma", "auto")
        denoising = Denoising(
            sigma="auto" if sigma == "auto" else _number(header, "sigma", 0, most=255) / 255,
            strength=_number(header, "strength", 1, most=1),
            chroma=_number(header, "chroma", 0, most=1) if "chroma" in header else None,
        )
        report = denoising.restore([""], [picture], model, progress)[0]
        report["warnings"] += put_back(None)
        return [pixels[kept]], report | _size(pixels[kept])
    inpainting = Inpainting(
        dilate_px=int(_number(header, "grow", 0, most=1000, whole=True)),
        feather_px=_number(header, "feather", 0, most=1000),
        grain_share=_number(header, "grain", 1, most=1),
    )
    hole = inpainting.fill(picture, request.mask / np.float32(255), model, progress)
    if not hole.any():
        raise ArgumentError("the mask is empty: nothing is to be filled")
    report = facts(picture, model)
    report["warnings"] += put_back(hole)
    changed = np.where(hole[kept] > 0, 255, 0).astype(np.uint8)
    return [pixels[kept], changed], report | _size(changed)


def _set_aside(
    header: dict[str, Any], colours: np.ndarray
) -> Callable[[np.ndarray | None], list[str]]:
    """Bound floating point (H, W, C) whose white is 1, so that its largest is not taken for white.

    Returns:
        Puts back what was beyond, but for what a hole (H, W) covers; returns a line that says so.
    """
    white = header.get("white", "auto")
    if white not in (1, "auto"):
        raise ArgumentError(f"white must be 1 or 'auto', not {white!r}")
    if white == "auto" or colours.dtype.kind != "f":
        return lambda hole: []
    beyond = np.abs(colours) > LARGEST_FLOAT
    before = colours[beyond]
    np.clip(colours, -LARGEST_FLOAT, LARGEST_FLOAT, out=colours, where=beyond)

    def put_back(hole: np.ndarray | None) -> list[str]:
        place = beyond if hole is None else beyond & (hole == 0)[..., None]
        colours[place] = before[place[beyond]]
        share = place.mean() if hole is None else 0.0  # what is filled is never beyond
        return [f"{share:.1%} of the values exceed 4 and stay as they are"] if share else []

    return put_back


def _size(pixels: np.ndarray) -> dict[str, int]:
    return {"width": pixels.shape[1], "height": pixels.shape[0]}


def _number(
    header: dict[str, Any], key: str, default: float, most: float, whole: bool = False
) -> float:
    value = header.get(key, default)
    if type(value) not in ((int,) if whole else (int, float)) or not 0 <= value <= most:
        kind = "whole number" if whole else "number"
        raise ArgumentError(f"{key} must be a {kind} from 0 to {most}, not {value!r}")
    return float(value)


def _text(header: dict[str, Any], key: str) -> str | None:
    value = header.get(key)
    if value is not None and not isinstance(value, str):
        raise ArgumentError(f"{key} must be a text, not {value!r}")
    return value


def _kept(header: dict[str, Any], shape: tuple[int, ...]) -> tuple[slice, slice]:
    """Rows and columns that are to be sent back."""
    keep = header.get("keep", [0, 0, shape[1], shape[0]])
    fits = isinstance(keep, list) and len(keep) == 4 and all(type(n) is int for n in keep)
    if not fits or min(keep) < 0 or keep[0] + keep[2] > shape[1] or keep[1] + keep[3] > shape[0]:
        raise ArgumentError("keep must be [left, top, width, height], inside the picture")
    left, top, width, height = keep
    return slice(top, top + height), slice(left, left + width)


def serve_standard_streams() -> None:
    """Serve on standard input and output; whatever else prints goes to standard error.

    Raises:
        InputError: Standard input is closed.
        OutputError: Standard output is.
        Exception: As `serve`.
    """
    if sys.stdin is None:
        raise InputError("standard input is closed")
    if sys.stdout is None:
        raise OutputError("standard output is closed")
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        serve(sys.stdin.buffer, sink)
    # a thread that reads holds standard input, and Python would wait for it
    except OutputError as error:
        cause = error.__cause__  # nobody reads the answers; Windows has EINVAL for that, too
        gone = isinstance(cause, OSError) and cause.errno in (errno.EPIPE, errno.EINVAL)
        os._exit(0 if gone else fail(str(error), error.exit_code, verbose=False))
    except KeyboardInterrupt:
        os._exit(INTERRUPTED)
