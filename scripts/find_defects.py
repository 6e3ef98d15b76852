"""How often `inpaint --detect` is right: dust and scratches painted on clean pictures.

`find_defects.py --images FOLDER`. The defects are the same at every call: soft-edged specks and
scratches, bright on one half of the pictures and dark on the other, of random strength.
"""

from pathlib import Path

import click
import cv2
import numpy as np
import page
from evaluate import picture_paths
from PIL import Image

from denoiser import catalog
from denoiser.console import run
from denoiser.defects import KINDS, Kind, find_cover, mask_of
from denoiser.files import check_folder
from denoiser.images import read
from denoiser.picture import as_rgb8

SPECKS, SCRATCHES = 12, 2


def paint(image: np.ndarray, seed: int) -> tuple[np.ndarray, dict[Kind, list[np.ndarray]]]:
    """Damage a picture.

    Args:
        image: (H, W, 3) uint8.
        seed: Which defects; also whether they are bright (even) or dark.

    Returns:
        The damaged picture, and per kind the defects, each (H, W) bool where it covers more than
        half.
    """
    rng = np.random.default_rng(seed)
    size = np.array(image.shape[1::-1])
    damaged, defects = image.astype(np.float32), {kind: list[np.ndarray]() for kind in KINDS}
    counts: dict[Kind, int] = {"dust": SPECKS, "scratches": SCRATCHES}
    for kind, count in counts.items():
        for _ in range(count):
            cover = np.zeros(image.shape[:2], np.float32)
            start = rng.uniform(0.05, 0.95, 2) * size
            if kind == "dust":
                axes = rng.uniform(1.5, 9, 2)
                box = (start.tolist(), axes.tolist(), float(rng.uniform(0, 180)))
                cv2.ellipse(cover, box, 1, -1, cv2.LINE_AA)
            else:
                angle = rng.uniform(0, np.pi)
                steps = 10 * np.array([np.cos(angle), np.sin(angle)]) + rng.normal(0, 0.5, (40, 2))
                points = np.rint(start + np.cumsum(steps[: rng.integers(8, 40)], 0))
                width = int(rng.integers(1, 4))
                cv2.polylines(cover, [points.astype(np.int32)], False, 1, width, cv2.LINE_AA)
            cover = cv2.GaussianBlur(cover, (0, 0), 0.7)
            strength = rng.uniform(0.3, 0.9)
            colour = 245 if seed % 2 == 0 else 12
            damaged += (strength * cover)[..., None] * (colour - damaged)
            if (cover > 0.5).any():
                defects[kind].append(cover > 0.5)
    return np.rint(damaged).astype(np.uint8), defects


@click.command("find_defects.py", context_settings={"show_default": True})
@click.option("--images", type=click.Path(path_type=Path), required=True)
@click.option("--model", default="defects", help="Name or .onnx.")
@click.option("--limit", type=click.IntRange(1), help="Only the first so many pictures.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for a sheet.")
def main(images: Path, model: str, limit: int | None, out: Path | None) -> None:
    """Print how many defects are found, and how much of clean pictures is taken for one."""
    if out:
        check_folder(out)
    found: dict[Kind, list[float]] = {kind: [] for kind in KINDS}
    wrong: dict[Kind, list[float]] = {kind: [] for kind in KINDS}
    finder, sheet = catalog.load(model, task="detect"), []
    for seed, path in enumerate(picture_paths(images)[:limit]):
        clean = as_rgb8(read(path))
        damaged, defects = paint(clean, seed)
        cover, mistaken_cover = (find_cover(image, finder) for image in (damaged, clean))
        for kind in KINDS:
            mask = mask_of(cover, (kind,))
            found[kind] += [float(mask[defect].mean()) for defect in defects[kind]]
            wrong[kind].append(float(mask_of(mistaken_cover, (kind,)).mean()))
        both = mask_of(cover, KINDS)
        sheet.append(np.hstack([damaged, np.repeat(both[..., None] * np.uint8(255), 3, 2)]))
    rows = [
        [
            kind,
            str(len(found[kind])),
            f"{np.mean(np.array(found[kind]) > 0.5):.0%}",
            f"{np.median(wrong[kind]):.3%}",
            f"{np.max(wrong[kind]):.3%}",
        ]
        for kind in KINDS
    ]
    heads = [
        images.name,
        "painted",
        "found",
        "share of a clean picture wrongly marked, median",
        "worst",
    ]
    print(page.table(heads, rows))
    if out:
        out.mkdir(parents=True, exist_ok=True)
        for index, picture in enumerate(sheet):
            Image.fromarray(picture).save(out / f"{index:02}.png")


if __name__ == "__main__":
    run(main)
