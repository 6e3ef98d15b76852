"""Denoise the shipped sample and say what was gained: `make demo` runs it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parent.parent
SAMPLE = ROOT / "docs" / "sample"
OUT = ROOT / "demo"


def psnr_db(path: Path) -> float:
    """PSNR of a picture against the clean sample."""
    difference = np.asarray(Image.open(path), float) - np.asarray(Image.open(SAMPLE / "clean.png"))
    return float(10 * np.log10(255**2 / np.mean(difference**2)))


def main() -> None:
    """Run the installed command as a person would."""
    OUT.mkdir(exist_ok=True)
    noisy, restored = SAMPLE / "noisy.png", OUT / "restored.png"
    denoise = Path(sys.executable).parent / "denoise"
    subprocess.run([denoise, noisy, restored, "--overwrite"], check=True)
    before, after = psnr_db(noisy), psnr_db(restored)
    print(f"PSNR {before:.2f} dB -> {after:.2f} dB: {after - before:+.2f} dB")
    print(f"before: {noisy}\nafter:  {restored}")


if __name__ == "__main__":
    main()
