"""One frame and its masks in, one picture out: `binary`, `highlighted` or `greenscreen`.

Knows pixels and colours; knows no files, no video and no network. Pixel contents follow the hosted model: `binary`
is 0/255, one channel, the union of all objects; `highlighted` is the frame with each object's colour, box or both;
`greenscreen` is the frame where an object is and (0, 255, 0) elsewhere.

Work is integer arithmetic inside each object's own rectangle, so small objects cost little at any picture size.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from masklet.choices import AnnotationType, MaskType
from masklet.errors import BadPrompt
from masklet.masks import FrameMasks, box_of

RGB: TypeAlias = tuple[int, int, int]
Picture: TypeAlias = NDArray[np.uint8]

MASK_TYPES: tuple[MaskType, ...] = get_args(MaskType)
ANNOTATION_TYPES: tuple[AnnotationType, ...] = get_args(AnnotationType)

GREEN: RGB = (0, 255, 0)

# Okabe and Ito, "Color Universal Design" (2008), without black, which no dark scene would show.
OKABE_ITO: tuple[RGB, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)

# Linear RGB as a protanope and a deuteranope see it: Machado, Oliveira, Fernandes (2009), severity 1.0.
_SEEN_BY: tuple[tuple[tuple[float, float, float], ...], ...] = (
    ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
    ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
)
# Linear RGB to cone responses and these to Oklab, in which equal distances look equal: Ottosson (2020).
_OKLAB_CONES = (
    (0.4122214708, 0.5363325363, 0.0514459929),
    (0.2119034982, 0.6806995451, 0.1073969566),
    (0.0883024619, 0.2817188376, 0.6299787005),
)
_OKLAB = (
    (0.2104542553, 0.7936177850, -0.0040720468),
    (1.9779984951, -2.4285922050, 0.4505937099),
    (0.0259040371, 0.7827717662, -0.8086757660),
)
# A generated colour is neither lost in shadow or glare (Oklab lightness) nor grey (chroma).
_LIGHTNESS_RANGE = (0.45, 0.92)
_LEAST_CHROMA = 0.09

# An outline is the shorter side over this number: 1 px at 360p, 3 at 720p, 4 at 1080p.
_SHORT_SIDE_PER_LINE_PX = 280
_LABEL_CHARACTERS = 28


def assign_colours(objects: Sequence[str]) -> dict[str, RGB]:
    """Give each object its colour, by position: Okabe-Ito first, then the most distant of what is left.

    The colour at a position never depends on later names, so an object added later recolours nobody. Generated
    colours keep their distance as seen with normal, protanopic and deuteranopic eyes; after some 2,800 they repeat.
    """
    names = list(dict.fromkeys(objects))
    colours = [*OKABE_ITO[: len(names)], *_generated(max(0, len(names) - len(OKABE_ITO)))]
    return {name: colours[position % len(colours)] for position, name in enumerate(names)}


def render(
    rgb: Picture,
    masks: FrameMasks,
    *,
    colours: Mapping[str, RGB],
    mask_type: MaskType = "binary",
    annotation_type: AnnotationType = "mask",
) -> Picture:
    """Draw one frame: [h, w] for `binary`, [h, w, 3] otherwise; always a new array, `rgb` stays as it was.

    `annotation_type` acts only with `highlighted`. An object without a pixel is not drawn: with all of them absent
    the answer is black, the frame itself, or all green. `colours` needs an entry for each object of `masks`.
    """
    height, width = masks.masks.shape[1:]
    if rgb.shape != (height, width, 3) or rgb.dtype != np.uint8:
        raise BadPrompt(
            f"The frame is {rgb.dtype} {rgb.shape}, but its masks are {height} high and {width} wide: "
            f"give uint8 ({height}, {width}, 3), the picture the masks were made for."
        )
    if mask_type == "binary":
        return _binary(masks)
    if mask_type == "greenscreen":
        return _greenscreen(rgb, masks)
    if mask_type == "highlighted" and annotation_type in ANNOTATION_TYPES:
        return _highlighted(rgb, masks, colours, annotation_type)
    name, value, known = (
        ("annotation_type", annotation_type, ANNOTATION_TYPES)
        if mask_type in MASK_TYPES
        else ("mask_type", mask_type, MASK_TYPES)
    )
    raise BadPrompt(f"{name} = {value!r} is not known: choose one of {', '.join(known)}.")


def _union(masks: FrameMasks) -> NDArray[np.bool_]:
    return np.asarray(masks.masks.any(axis=0))


def _binary(masks: FrameMasks) -> Picture:
    return _union(masks).view(np.uint8) * np.uint8(255)


def _greenscreen(rgb: Picture, masks: FrameMasks) -> Picture:
    union = _union(masks)
    picture = np.empty_like(rgb, order="C")
    # A channel at a time: numpy masks a strided channel five times faster than it spreads a mask over three.
    for channel, value in enumerate(GREEN):
        picture[..., channel] = value
        np.copyto(picture[..., channel], rgb[..., channel], where=union)
    return picture


def _highlighted(
    rgb: Picture, masks: FrameMasks, colours: Mapping[str, RGB], annotation_type: AnnotationType
) -> Picture:
    """Draw fills, then outlines, then boxes, then labels, so that no object's fill hides another's line."""
    picture = rgb.copy(order="C")
    line_px = _line_px(picture)
    seen = [
        (name, mask, box, colours[name])
        for name, mask in zip(masks.objects, masks.masks, strict=True)
        if (box := box_of(mask)) is not None
    ]
    if annotation_type != "box":
        for _, mask, box, colour in seen:
            _fill(picture, mask, box, colour)
        for _, mask, box, colour in seen:
            _outline(picture, mask, box, colour, line_px)
    if annotation_type != "mask":
        for _, _, box, colour in seen:
            _rectangle(picture, box, colour, line_px)
        numbers = {name: number for number, name in enumerate(colours, start=1)}
        for name, _, box, colour in seen:
            _label(picture, box, colour, _legible(name, numbers[name]))
    return picture


def _line_px(picture: Picture) -> int:
    shorter: int = min(picture.shape[:2])
    return max(1, round(shorter / _SHORT_SIDE_PER_LINE_PX))


def _fill(picture: Picture, mask: NDArray[np.bool_], box: tuple[int, int, int, int], colour: RGB) -> None:
    """Mix half the colour into half the picture, without leaving uint8."""
    x0, y0, x1, y1 = box
    part, where = picture[y0:y1, x0:x1], mask[y0:y1, x0:x1]
    for channel, value in enumerate(colour):
        np.copyto(part[..., channel], (part[..., channel] >> 1) + np.uint8(value >> 1), where=where)


def _outline(
    picture: Picture, mask: NDArray[np.bool_], box: tuple[int, int, int, int], colour: RGB, line_px: int
) -> None:
    """Draw the colour just inside the mask and a dark line just outside it, so that it shows on its own colour too.

    Where the object leaves the picture there is no line: it does not end there.
    """
    dark_px = max(1, line_px // 2)
    x0, y0, x1, y1 = _grown(box, dark_px, picture)
    part, inside = picture[y0:y1, x0:x1], mask[y0:y1, x0:x1]
    line = inside & ~_eroded(inside, line_px)
    dark = ~inside & ~_eroded(~inside, dark_px)
    rows, columns = np.nonzero(dark)
    part[rows, columns] >>= 1
    rows, columns = np.nonzero(line)
    part[rows, columns] = colour


def _eroded(mask: NDArray[np.bool_], radius_px: int) -> NDArray[np.bool_]:
    """Take away what is within `radius_px` steps of the outside; beyond the array's edge counts as inside."""
    for _ in range(radius_px):
        smaller = mask.copy()
        smaller[1:] &= mask[:-1]
        smaller[:-1] &= mask[1:]
        smaller[:, 1:] &= mask[:, :-1]
        smaller[:, :-1] &= mask[:, 1:]
        mask = smaller
    return mask


def _grown(box: tuple[int, int, int, int], by_px: int, picture: Picture) -> tuple[int, int, int, int]:
    height, width = picture.shape[:2]
    x0, y0, x1, y1 = box
    return max(0, x0 - by_px), max(0, y0 - by_px), min(width, x1 + by_px), min(height, y1 + by_px)


def _rectangle(picture: Picture, box: tuple[int, int, int, int], colour: RGB, line_px: int) -> None:
    """Frame the box from outside, the line's inner edge on the mask's outermost pixels, with a dark edge around."""
    _frame(picture, _grown(box, line_px + max(1, line_px // 2), picture), None, max(1, line_px // 2))
    _frame(picture, _grown(box, line_px, picture), colour, line_px)


def _frame(picture: Picture, outer: tuple[int, int, int, int], colour: RGB | None, line_px: int) -> None:
    """Paint the four sides of a rectangle; no colour halves what is there."""
    x0, y0, x1, y1 = outer
    top, bottom = min(y1, y0 + line_px), max(y0, y1 - line_px)
    left, right = min(x1, x0 + line_px), max(x0, x1 - line_px)
    sides = (
        picture[y0:top, x0:x1],
        picture[max(top, bottom) : y1, x0:x1],
        picture[top:bottom, x0:left],
        picture[top:bottom, max(left, right) : x1],
    )
    for side in sides:
        if colour is None:
            side >>= 1
        else:
            side[...] = colour


def _legible(name: str, number: int) -> str:
    """Spell a name with what the built-in font can draw (ASCII), cut to length; else the object's number."""
    words = unicodedata.normalize("NFKD", " ".join(name.split()))  # an accent is a sign of its own, which is left out
    drawn = "".join(letter if " " <= letter <= "~" else "?" for letter in words if not unicodedata.combining(letter))
    if not drawn.strip("? "):
        return f"object {number}"
    return drawn if len(drawn) <= _LABEL_CHARACTERS else drawn[: _LABEL_CHARACTERS - 3] + "..."


def _label(picture: Picture, box: tuple[int, int, int, int], colour: RGB, text: str) -> None:
    """Put the name on a tag above the box; inside it where there is no room above; nowhere on a tiny picture."""
    height, width = picture.shape[:2]
    tag = _tag(text, colour, max(10, round(min(height, width) / 40)))
    tag_height, tag_width = tag.shape[:2]
    if tag_height * 2 > height or tag_width > width:
        return
    x0, y0, _, _ = _grown(box, _line_px(picture), picture)
    left = min(x0, width - tag_width)
    top = y0 - tag_height if y0 >= tag_height else min(y0, height - tag_height)
    picture[top : top + tag_height, left : left + tag_width] = tag


@lru_cache(maxsize=256)
def _tag(text: str, colour: RGB, text_px: int) -> Picture:
    """Draw one label, black or white on the object's colour, whichever reads better; cached, so read-only."""
    font = ImageFont.load_default(text_px)
    left, _, right, _ = font.getbbox(text)
    ascent_to_descent = font.getbbox("Ajg|")
    pad = max(2, text_px // 4)
    size = (round(right - left) + 2 * pad + 1, round(ascent_to_descent[3] - ascent_to_descent[1]) + pad + 1)
    image = Image.new("RGB", size, colour)
    ink = (0, 0, 0) if _luminance(colour) > 0.179 else (255, 255, 255)  # equal WCAG contrast lies at 0.179
    ImageDraw.Draw(image).text((pad - left, pad / 2 - ascent_to_descent[1]), text, fill=ink, font=font)
    tag = np.asarray(image)
    tag.setflags(write=False)
    return tag


def _linear(colours: NDArray[np.float64]) -> NDArray[np.float64]:
    """Undo the sRGB curve; 0..255 in, 0..1 out."""
    share = colours / 255.0
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


def _luminance(colour: RGB) -> float:
    red, green, blue = _linear(np.array(colour, np.float64)).tolist()
    return float(0.2126 * red + 0.7152 * green + 0.0722 * blue)


def _looks(colours: NDArray[np.float64]) -> NDArray[np.float64]:
    """Place sRGB colours [n, 3] in Oklab as each kind of eye sees them: [3 kinds, n, 3]."""
    seen = np.einsum("kij,nj->kni", np.array(_SEEN_BY), _linear(colours)).clip(0.0, 1.0)
    return np.asarray(np.cbrt(seen @ np.array(_OKLAB_CONES).T) @ np.array(_OKLAB).T)


@lru_cache(maxsize=8)
def _generated(count: int) -> tuple[RGB, ...]:
    """Pick colours one by one, each the farthest from all before it in the eyes that tell them apart worst."""
    if count == 0:
        return ()
    steps = np.round(np.linspace(0, 255, 16))
    candidates = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    lightness, green_red, blue_yellow = np.moveaxis(_looks(candidates)[0], -1, 0)
    vivid = np.hypot(green_red, blue_yellow) >= _LEAST_CHROMA
    candidates = candidates[vivid & (lightness >= _LIGHTNESS_RANGE[0]) & (lightness <= _LIGHTNESS_RANGE[1])]
    looks, taken = _looks(candidates), _looks(np.array(OKABE_ITO, np.float64))
    distance = np.min([np.linalg.norm(looks - one[:, None], axis=2).min(0) for one in np.moveaxis(taken, 1, 0)], axis=0)
    chosen: list[RGB] = []
    for _ in range(min(count, len(candidates))):
        best = int(distance.argmax())
        red, green, blue = (int(value) for value in candidates[best])
        chosen.append((red, green, blue))
        distance = np.minimum(distance, np.linalg.norm(looks - looks[:, best][:, None], axis=2).min(0))
        distance[best] = -1.0  # two candidates may look the same to some eyes: a taken one is never taken twice
    return tuple(chosen)
