"""Measure models on a folder of pictures: PSNR and SSIM, as a Markdown table and a picture sheet.

Published protocol: Gaussian noise of fixed seeds is added to the 8-bit image and not clipped before
the network; the result is clipped and rounded to 8 bits; PSNR is over all of RGB. With --pairs the
folder holds `noisy/` and `clean/`, files matched by name.
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import click
import numpy as np
import page
import peers
from peers import to_8bit
from PIL import Image
from skimage.metrics import structural_similarity

from denoiser import load_model
from denoiser.console import run, say
from denoiser.errors import ArgumentError, InputError
from denoiser.files import check_folder
from denoiser.images import SUFFIXES, as_rgb8, read

T = TypeVar("T", str, Path)

SHEET_PX = 160  # side of a crop on the sheet, before it is doubled
SHEET_ROWS = 6
SSIM_PX = 11  # side of its window


@dataclasses.dataclass(frozen=True)
class Case:
    """One noisy picture and its truth, (H, W, 3); clean is uint8, noisy float32."""

    name: str
    clean: np.ndarray
    noisy: np.ndarray
    sigma: float | None


def psnr_db(restored: np.ndarray, clean: np.ndarray) -> float:
    """PSNR of two uint8 images over all channels; infinite if they are equal."""
    error = np.mean((restored.astype(np.float64) - clean) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def ssim(restored: np.ndarray, clean: np.ndarray, where: np.ndarray | None = None) -> float:
    """SSIM (Wang et al. 2004): Gaussian window of sigma 1.5, mean over RGB.

    Of the whole picture without its borders or, borders included, of the pixels in `where`, (H, W)
    bool.

    Raises:
        InputError: The picture is smaller than the window.
    """
    if min(clean.shape[:2]) < SSIM_PX:
        height, width = clean.shape[:2]
        raise InputError(f"a picture of {width}x{height} is smaller than SSIM's window")
    mean, similar = structural_similarity(
        restored,
        clean,
        channel_axis=2,
        data_range=255,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    return float(mean if where is None else similar[where].mean())


def gaussian_cases(folder: Path, level: int, limit: int | None) -> Iterator[Case]:
    """Add noise of level 0-255 to every picture of a folder, the same at every call."""
    for index, path in enumerate(picture_paths(folder)[:limit]):
        clean = as_rgb8(read(path))
        noise = np.random.default_rng((level, index)).normal(0, level / 255, clean.shape)
        yield Case(path.stem, clean, (clean / 255 + noise).astype(np.float32), level / 255)


def pair_cases(folder: Path, level: int | None, limit: int | None) -> Iterator[Case]:
    """Read real pairs; every denoiser is told `level` (0-255), or has to estimate it."""
    for path in picture_paths(folder / "noisy")[:limit]:
        clean, noisy = as_rgb8(read(folder / "clean" / path.name)), as_rgb8(read(path))
        if clean.shape != noisy.shape:
            raise InputError(f"{path} and its clean partner differ in size")
        sigma = None if level is None else level / 255
        yield Case(path.stem, clean, noisy.astype(np.float32) / 255, sigma)


def by_stem(models: Iterable[T], views: int = 1) -> dict[str, T]:
    """Sort models by the stem of their name, and how many views, which tables call them by.

    Raises:
        ArgumentError: Two have the same.
    """
    found: dict[str, T] = {}
    for name in dict.fromkeys(models):
        label = Path(name).stem + (f", {views} views" if views > 1 else "")
        if label in found:
            raise ArgumentError(
                f"{found[label]} and {name} would both be called {label}: rename one"
            )
        found[label] = name
    return found


def picture_paths(folder: Path) -> list[Path]:
    """Pictures in a folder, sorted by name."""
    if not folder.is_dir():
        raise InputError(f"no such folder: {folder}")
    found = (path for path in folder.iterdir() if not path.name.startswith("."))
    paths = sorted(path for path in found if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise InputError(f"no pictures in {folder}")
    return paths


def sheet_row(case: Case, restored: list[np.ndarray]) -> np.ndarray:
    """Noisy, restored and clean centre crops side by side at 200 %, (2 S, n 2 S, 3) uint8."""
    height, width = case.clean.shape[:2]
    y, x = (height - SHEET_PX) // 2, (width - SHEET_PX) // 2
    images = [to_8bit(case.noisy), *restored, case.clean]
    row = np.hstack([image[y : y + SHEET_PX, x : x + SHEET_PX] for image in images])
    return row.repeat(2, 0).repeat(2, 1)


@click.command("evaluate.py", context_settings={"show_default": True})
@click.option("--images", type=click.Path(path_type=Path), required=True)
@click.option("--pairs", is_flag=True, help="IMAGES holds noisy/ and clean/ instead of clean ones.")
@click.option("--inpaint", is_flag=True, help="Measure inpainting, beside the classical methods.")
@click.option("--model", "models", multiple=True, help="Name or .onnx; may be given several times.")
@click.option(
    "--peer",
    "chosen",
    multiple=True,
    type=click.Choice([*peers.NAMES, "migan"]),
    help="Measure it, too; migan with --inpaint only.",
)
@click.option("--weights", type=click.Path(path_type=Path), help="Folder of a peer's weights.")
@click.option(
    "--sigma",
    "sigmas",
    multiple=True,
    type=click.IntRange(0, 255),
    help="May be given several times; else 15, 25 and 50.",
)
@click.option("--blind", is_flag=True, help="Do not tell the noise level: let it be estimated.")
@click.option(
    "--views", type=click.Choice([1, 2, 4, 8]), default=1, help="As of denoise; not peers."
)
@click.option("--limit", type=click.IntRange(1), help="Only the first so many pictures.")
@click.option("--device", default="auto")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the table and a sheet.")
def main(
    images: Path,
    pairs: bool,
    inpaint: bool,
    models: tuple[str, ...],
    chosen: tuple[str, ...],
    weights: Path | None,
    sigmas: tuple[int, ...],
    blind: bool,
    views: int,
    limit: int | None,
    device: str,
    out: Path | None,
) -> None:
    """Print PSNR and SSIM per picture and set; write a table and a before/after sheet."""
    if out:
        check_folder(out)
    if inpaint:
        import holes  # which reads pictures as we do

        if pairs or sigmas or blind:
            raise ArgumentError("--inpaint cannot be combined with --pairs, --sigma and --blind")
        if set(chosen) - {"migan"}:
            raise ArgumentError("the only peer that fills holes is migan")
        others = {name: holes.migan(weights) for name in chosen}
        holes.evaluate_holes(images, models, others, device, views, limit, out)
        return
    if pairs and blind and sigmas:
        raise ArgumentError("--blind tells no --sigma")
    if "migan" in chosen:
        raise ArgumentError("--peer migan needs --inpaint")
    denoisers: dict[str, peers.Denoiser] = {}
    for stem, name in by_stem(models or (() if chosen else ("balanced",)), views).items():
        model = load_model(name, device=device, views=views)
        if stem in chosen:
            raise ArgumentError(f"{name} and the peer {stem} have one name: rename the model")
        denoisers[stem] = functools.partial(peers.ours, model=model)
    denoisers |= {name: peers.peer(name, weights, device) for name in chosen}

    if pairs:
        settings = {
            "real noise" if level is None else f"told {level}": pair_cases(images, level, limit)
            for level in sigmas or (None,)
        }
    else:
        settings = {
            f"sigma {level}": gaussian_cases(images, level, limit)
            for level in sigmas or (15, 25, 50)
        }
    rows = []
    sheet: list[np.ndarray] = []
    for setting, cases in settings.items():
        scores: list[list[tuple[float, float]]] = []
        for case in cases:
            sigma = None if blind else case.sigma
            results = [to_8bit(denoiser(case.noisy, sigma)) for denoiser in denoisers.values()]
            noisy = to_8bit(case.noisy)
            scores.append(
                [
                    (psnr_db(image, case.clean), ssim(image, case.clean))
                    for image in [noisy, *results]
                ]
            )
            text = "  ".join(f"{psnr:.2f} dB {similar:.4f}" for psnr, similar in scores[-1])
            click.echo(f"{setting}  {case.name}  {text}")
            large_enough = min(case.clean.shape[:2]) >= SHEET_PX
            if large_enough and len(scores) <= max(1, SHEET_ROWS // len(settings)):
                sheet.append(sheet_row(case, results))
        means = np.mean(scores, 0)
        cells = [f"{psnr:.2f} / {similar:.4f}" for psnr, similar in means]
        rows.append([f"{setting} ({len(scores)} pictures)", *cells])
    table = page.table([images.name, "noisy", *denoisers], rows).rstrip()
    click.echo(f"\nPSNR in dB / SSIM\n\n{table}")
    if out:
        out.mkdir(parents=True, exist_ok=True)
        (out / "results.md").write_text(f"PSNR in dB / SSIM\n\n{table}\n", encoding="utf-8")
        if sheet:
            Image.fromarray(np.vstack(sheet)).save(out / "sheet.png")
        say(f"wrote the table and the sheet to {out}")


if __name__ == "__main__":
    run(main)
