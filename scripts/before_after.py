"""Draw docs/sample/before-after.png: the noisy sample and what `denoise` makes of it, at 200 %."""

from pathlib import Path

import numpy as np
from PIL import Image

from denoiser import denoise

SAMPLE = Path(__file__).parent.parent / "docs" / "sample"
TOP, LEFT, HEIGHT, WIDTH = 110, 90, 200, 240  # the crop that is shown
GAP_PX = 8


def main() -> None:
    """Restore the sample and put crops side by side."""
    noisy = np.array(Image.open(SAMPLE / "noisy.png"))
    crops = [
        image[TOP : TOP + HEIGHT, LEFT : LEFT + WIDTH].repeat(2, 0).repeat(2, 1)
        for image in (noisy, denoise(noisy))
    ]
    gap = np.full((2 * HEIGHT, GAP_PX, 3), 255, np.uint8)
    sheet = np.hstack([crops[0], gap, crops[1]])
    Image.fromarray(sheet).save(SAMPLE / "before-after.png", optimize=True)


if __name__ == "__main__":
    main()
