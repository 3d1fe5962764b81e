"""Contact sheets: a strip of frames for each video, with a title, one under the other. Knows pictures only."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from masklet.metrics import contour

PICTURE_PX = 320
"""Width of each picture of a strip."""
TITLE_PX, TEXT_PX, LABEL_PX = 28, 18, 12


def draw_strip(
    pictures: Sequence[tuple[str, NDArray[np.uint8], Iterable[NDArray[np.bool_]]]],
) -> Image.Image:
    """Put pictures of one size side by side, each with a label, and the true masks outlined in white."""
    height, width = pictures[0][1].shape[:2]
    size = (PICTURE_PX, max(1, round(PICTURE_PX * height / width)))
    strip = Image.new("RGB", (len(pictures) * PICTURE_PX, size[1]))
    for i, (label, rgb, truths) in enumerate(pictures):
        small = np.array(Image.fromarray(rgb).resize(size))
        for truth in truths:
            small[contour(np.asarray(Image.fromarray(truth).resize(size)))] = 255
        picture = Image.fromarray(small)
        _write(picture, label, (4, 2), LABEL_PX)
        strip.paste(picture, (i * PICTURE_PX, 0))
    return strip


def draw_sheet(strips: Sequence[tuple[str, Image.Image]]) -> Image.Image:
    """Put strips one under the other, each below its title."""
    width = max(strip.width for _, strip in strips)
    sheet = Image.new("RGB", (width, sum(TITLE_PX + strip.height for _, strip in strips)))
    top = 0
    for title, strip in strips:
        _write(sheet, title, (4, top + (TITLE_PX - TEXT_PX) // 2 - 1), TEXT_PX)
        sheet.paste(strip, (0, top + TITLE_PX))
        top += TITLE_PX + strip.height
    return sheet


def _write(picture: Image.Image, text: str, place: tuple[int, int], text_px: int) -> None:
    """Write in white on a dark edge, which reads on any ground."""
    font = ImageFont.load_default(text_px)
    ImageDraw.Draw(picture).text(place, text, fill=(255, 255, 255), font=font, stroke_width=2, stroke_fill=(0, 0, 0))
