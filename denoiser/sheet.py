"""A contact sheet: crops before and after of the pictures that changed most, as one HTML file."""

import base64
import dataclasses
import heapq
import html
import io
import itertools
from pathlib import Path

import numpy as np
from PIL import Image

from denoiser.console import visible
from denoiser.picture import Picture, as_rgb8
from denoiser.plan import Item

CROP_PX = 192
MOST = 24
_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 16px sans-serif; margin: 2em; background: #222; color: #ddd }}
figure {{ display: inline-block; margin: 0 2em 2em 0 }}
img {{ width: {width}px; image-rendering: pixelated }}
</style>
<h1>{title}</h1>
<p>Before and after at 200 %, where it changed most; pictures that changed most come first.</p>
{figures}
</html>
"""


class Sheet:
    """Collects crops while pictures are restored; holds no more than `MOST` pairs."""

    def __init__(self) -> None:
        self._pairs: list[tuple[float, int, str, bytes, bytes]] = []
        self._order = itertools.count()

    def add(self, item: Item, before: np.ndarray, after: Picture) -> None:
        """Take a picture in if it has changed more than those that are held.

        Args:
            item: Whose picture it is.
            before: Its pixels, (H, W, C).
            after: The restored picture.
        """
        old, new = as_rgb8(dataclasses.replace(after, pixels=before)), as_rgb8(after)
        change = np.abs(old.astype(np.int16) - new).mean(2)  # (H, W)
        y, x = _busiest(change)
        area = (slice(y, y + CROP_PX), slice(x, x + CROP_PX))
        pair = (_png(old[area]), _png(new[area]))
        heapq.heappush(self._pairs, (float(change.mean()), next(self._order), item.name, *pair))
        if len(self._pairs) > MOST:
            heapq.heappop(self._pairs)

    @property
    def is_empty(self) -> bool:
        """Whether no picture was taken in."""
        return not self._pairs

    def to_html(self, title: str) -> str:
        """Compose the page; the crops are inside it."""
        figures = [
            f"<figure><img src='{_link(old)}' alt='before'> <img src='{_link(new)}' alt='after'>"
            f"<figcaption>{_escaped(name)}, changed by {change:.1f} of 255</figcaption></figure>"
            for change, _, name, old, new in sorted(self._pairs, reverse=True)
        ]
        return _PAGE.format(title=_escaped(title), width=2 * CROP_PX, figures="\n".join(figures))


def is_page(path: Path, title: str) -> bool:
    """Whether a file is a page of that title as `Sheet.to_html` makes it."""
    begins = _PAGE[: _PAGE.index("<style>")].format(title=_escaped(title)).encode()
    if not path.is_file():  # a pipe would never end
        return False
    try:
        with path.open("rb") as file:
            return file.read(len(begins)) == begins
    except OSError:
        return False


def _busiest(change: np.ndarray) -> tuple[int, int]:
    """Upper left corner of the crop with the largest change, on a grid of half crops."""
    step = CROP_PX // 2
    rows = range(0, max(1, change.shape[0] - CROP_PX + 1), step)
    columns = range(0, max(1, change.shape[1] - CROP_PX + 1), step)
    return max(
        itertools.product(rows, columns),
        key=lambda corner: change[
            corner[0] : corner[0] + CROP_PX, corner[1] : corner[1] + CROP_PX
        ].mean(),
    )


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _link(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _escaped(text: str) -> str:
    return html.escape(visible(text))
