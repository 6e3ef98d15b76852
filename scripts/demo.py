"""Denoise and inpaint the shipped sample and say what was gained: `make demo` runs it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).parent.parent
SAMPLE = ROOT / "docs" / "sample"
OUT = ROOT / "demo"


def psnr_db(path: Path, where: np.ndarray | None = None) -> float:
    """PSNR of a picture against the clean sample, of all pixels or those of (H, W) bool."""
    difference = np.asarray(Image.open(path), float) - np.asarray(Image.open(SAMPLE / "clean.png"))
    error = difference if where is None else difference[where]
    return float(10 * np.log10(255**2 / np.mean(error**2)))


def damage(picture: Path, mask: Path) -> None:
    """Spoil the clean sample by a date stamp and scratches; also save where."""
    with Image.open(SAMPLE / "clean.png") as clean:
        spoiled, hole = clean.copy(), Image.new("L", clean.size)
    for image, ink, date in ((spoiled, (230, 220, 200), (255, 140, 30)), (hole, 255, 255)):
        draw = ImageDraw.Draw(image)
        draw.line([(60, 0), (150, 260), (170, 511)], ink, 3, "curve")
        draw.line([(400, 40), (330, 180), (345, 330)], ink, 2, "curve")
        draw.text((320, 450), "'98 11 24", date, ImageFont.load_default(36))
    spoiled.save(picture)
    hole.point(lambda value: 255 * (value > 0)).save(mask)  # its edge is soft


def run(command: str, *arguments: Path | str) -> None:
    """Run an installed command as a person would."""
    path = Path(sys.executable).parent / command
    subprocess.run([path, *arguments, "--overwrite"], check=True)


def main() -> None:
    """Run both commands."""
    OUT.mkdir(exist_ok=True)
    noisy, restored = SAMPLE / "noisy.png", OUT / "restored.png"
    run("denoise", noisy, restored)
    before, after = psnr_db(noisy), psnr_db(restored)
    print(f"PSNR {before:.2f} dB -> {after:.2f} dB: {after - before:+.2f} dB")
    print(f"before: {noisy}\nafter:  {restored}\n")

    damaged, mask, filled = (OUT / f"{name}.png" for name in ("damaged", "mask", "filled"))
    damage(damaged, mask)
    run("inpaint", damaged, mask, filled)
    hole = np.asarray(Image.open(mask)) > 0
    before, after = psnr_db(damaged, hole), psnr_db(filled, hole)
    print(f"PSNR in the hole {before:.2f} dB -> {after:.2f} dB: {after - before:+.2f} dB")
    print(f"before: {damaged}\nmask:   {mask}\nafter:  {filled}")


if __name__ == "__main__":
    main()
