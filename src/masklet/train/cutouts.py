"""Cut-outs: pictures of single things with exact transparency, from emoji and from the teacher's masks, and how one is
laid on a frame, bent, turned and blurred by its motion.

A cut-out's pixel belongs to the thing where it is more than half opaque; everything else is the soft border.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from PIL.Image import Resampling, Transform

from masklet.errors import BadVideo
from masklet.files import draft_path, make_folder
from masklet.masks import box_of
from masklet.train.prepared import opened

SIDE_PX = 256
"""Longest side of a stored cut-out."""
BORDER_PX = 2
"""Transparent pixels around a cut-out, so that its border stays soft when it is turned."""
OPAQUE = 127
"""Alpha above this, more than half, is the thing."""
FIRM = 0.8
"""At least this share of the pixels that can be seen belongs to the thing; smoke and glows are left out."""
FILLED = 0.1
"""At least this share of its box is the thing."""
SKIN_TONE = re.compile(r"-1f3f[b-f]")
FONT_PX = 109
"""The one size at which Noto Color Emoji has pictures."""
FONT_RANGES = ((0x1F300, 0x1F64F), (0x1F680, 0x1F6FF), (0x1F900, 0x1F9FF), (0x1FA70, 0x1FAFF), (0x2600, 0x27BF))
"""Blocks of Unicode that hold emoji which are one character."""
CELLS = 6
"""A bent cut-out is drawn as so many cells a side, bilinear within each."""
TEACHER_AREA = (0.004, 0.4)
"""Share of its frame that a thing found by the teacher fills, to become a cut-out."""


@dataclass(frozen=True)
class Pose:
    """Where and how a cut-out lies on a frame."""

    xy: tuple[float, float]
    """Its middle, in pixels of the frame."""
    scale_xy: tuple[float, float]
    """Frame pixels for each of its own, along its own axes; negative mirrors."""
    turn: float = 0.0
    """Radians."""
    bend_px: float = 0.0
    """How far its parts are displaced, in its own pixels."""
    bend_phase: tuple[float, float] = (0.0, 0.0)
    """What of it is displaced where; changes smoothly while it moves."""
    motion_xy: tuple[float, float] = (0.0, 0.0)
    """Pixels it moves while the shutter is open."""

    def reach_px(self, cutout: Image.Image) -> float:
        """Return a distance from the middle beyond which nothing of it can be seen."""
        width, height = cutout.width * abs(self.scale_xy[0]), cutout.height * abs(self.scale_xy[1])
        bend = self.bend_px * max(abs(self.scale_xy[0]), abs(self.scale_xy[1]))
        return float(np.hypot(width, height)) / 2 + 2 * bend + float(np.hypot(*self.motion_xy)) / 2


@dataclass(frozen=True, eq=False)
class Patch:
    """A cut-out as it lies on a frame: the rectangle of the frame that it can touch."""

    rows: slice
    columns: slice
    colour: NDArray[np.float32]
    """`[h, w, 3]`, 0..255, multiplied by the opacity."""
    opacity: NDArray[np.float32]
    """`[h, w, 1]`, 0..1."""

    @property
    def solid(self) -> NDArray[np.bool_]:
        """Where the thing is, `[h, w]`."""
        return self.opacity[..., 0] > 0.5


def read_cutout(path: Path) -> Image.Image:
    """Read a cut-out, its colours multiplied by its opacity (Pillow's mode `RGBa`), with a transparent border."""
    with opened(path) as image:
        return bordered(image.convert("RGBA")).convert("RGBa")


def bordered(image: Image.Image) -> Image.Image:
    """Put transparent pixels around a picture."""
    wider = Image.new(image.mode, (image.width + 2 * BORDER_PX, image.height + 2 * BORDER_PX))
    wider.paste(image, (BORDER_PX, BORDER_PX))
    return wider


def lay(cutout: Image.Image, pose: Pose, *, size_hw: tuple[int, int]) -> Patch | None:
    """Lay a cut-out (`RGBa`) on a frame; None where nothing of it falls on the frame."""
    reach, (x, y) = pose.reach_px(cutout), pose.xy
    margin = int(np.ceil(np.hypot(*pose.motion_xy) / 2))
    left, right = max(-margin, int(x - reach)), min(size_hw[1] + margin, int(x + reach) + 2)
    top, bottom = max(-margin, int(y - reach)), min(size_hw[0] + margin, int(y + reach) + 2)
    if right - left < 1 or bottom - top < 1:
        return None
    drawn = _warp(cutout, pose, (left, top, right, bottom))
    pixels = _smear(np.asarray(drawn).astype(np.float32), pose.motion_xy)
    inside = pixels[max(0, -top) : max(0, size_hw[0] - top), max(0, -left) : max(0, size_hw[1] - left)]
    if not inside.size:
        return None
    y0, x0 = max(0, top), max(0, left)
    rows, columns = slice(y0, y0 + inside.shape[0]), slice(x0, x0 + inside.shape[1])
    return Patch(rows, columns, inside[..., :3], inside[..., 3:] / np.float32(255))


def _warp(cutout: Image.Image, pose: Pose, box: tuple[int, int, int, int]) -> Image.Image:
    """Draw what falls into a box of the frame; straight where nothing bends, else cell by cell."""
    left, top, right, bottom = box
    size = (right - left, bottom - top)
    if not pose.bend_px:
        (ax, ay), (bx, by), (cx, cy) = _source(cutout, pose, np.array([(left, top), (left + 1, top), (left, top + 1)]))
        affine = (bx - ax, cx - ax, ax, by - ay, cy - ay, ay)
        return cutout.transform(size, Transform.AFFINE, affine, Resampling.BILINEAR)
    xs = np.linspace(0, size[0], CELLS + 1).round().astype(int)
    ys = np.linspace(0, size[1], CELLS + 1).round().astype(int)
    corners = np.stack(np.meshgrid(xs + left, ys + top), axis=-1).reshape(-1, 2)
    source = _source(cutout, pose, corners).reshape(CELLS + 1, CELLS + 1, 2)
    mesh = []
    for i in range(CELLS):
        for j in range(CELLS):
            # Pillow wants the corners counter-clockwise from the top left.
            quad = (source[i, j], source[i + 1, j], source[i + 1, j + 1], source[i, j + 1])
            cell = (int(xs[j]), int(ys[i]), int(xs[j + 1]), int(ys[i + 1]))
            if cell[2] > cell[0] and cell[3] > cell[1]:
                mesh.append((cell, tuple(np.concatenate(quad).tolist())))
    return cutout.transform(size, Transform.MESH, mesh, Resampling.BILINEAR)


def _source(cutout: Image.Image, pose: Pose, places_xy: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return which point of the cut-out lies at places of the frame, `[n, 2]`."""
    cos, sin = np.cos(pose.turn), np.sin(pose.turn)
    from_middle = (places_xy - np.array(pose.xy)) @ np.array([(cos, -sin), (sin, cos)])
    inside = from_middle / np.array(pose.scale_xy)
    u, v = (inside / max(cutout.size)).T  # about -0.5..0.5
    first, second = pose.bend_phase
    bend = np.stack((np.sin(5 * v + 2 * u + first), np.sin(5 * u - 2 * v + second)), axis=-1)
    places: NDArray[np.float64] = inside + pose.bend_px * bend + np.array(cutout.size) / 2
    return places


def _smear(pixels: NDArray[np.float32], motion_xy: tuple[float, float]) -> NDArray[np.float32]:
    """Average a picture along a motion, in steps of about two pixels."""
    steps = int(np.hypot(*motion_xy) / 2)
    if steps < 1:
        return pixels
    padded = [int(np.ceil(abs(motion) / 2)) for motion in motion_xy]
    wide = np.pad(pixels, ((padded[1], padded[1]), (padded[0], padded[0]), (0, 0)))
    total = np.zeros_like(pixels)
    for share in np.linspace(-0.5, 0.5, steps + 1):
        dx, dy = (round(p + share * motion) for p, motion in zip(padded, motion_xy, strict=True))
        total += wide[dy : dy + pixels.shape[0], dx : dx + pixels.shape[1]]
    return total / np.float32(steps + 1)


def trimmed(image: Image.Image) -> Image.Image | None:
    """Cut a picture down to its thing, at most `SIDE_PX` long; None where that is no firm thing."""
    alpha = np.asarray(image.getchannel("A"))
    box = box_of(alpha > 0)
    if box is None:
        return None
    solid = np.count_nonzero(alpha > OPAQUE)
    x0, y0, x1, y1 = box
    if solid < FIRM * np.count_nonzero(alpha) or solid < FILLED * (x1 - x0) * (y1 - y0):
        return None
    cut = image.crop(box)
    cut.thumbnail((SIDE_PX, SIDE_PX), Resampling.LANCZOS)
    return cut


def write_picture_cutouts(pictures: Path, out: Path, rng: np.random.Generator, *, prefix: str) -> int:
    """Turn a folder of pictures with transparency into cut-outs, and return how many.

    Of those that differ only in the tone of skin (by their names, which are Unicode code points) one is drawn, so that
    people do not crowd out everything else.
    """
    variants: dict[str, list[Path]] = {}
    for path in sorted(p for p in pictures.iterdir() if p.suffix.lower() in (".png", ".webp")):
        variants.setdefault(SKIN_TONE.sub("", path.stem), []).append(path)
    if not variants:
        raise BadVideo(f"{pictures} holds no PNG or WebP pictures: give the folder of a package of emoji")
    count = 0
    for name, paths in variants.items():
        chosen = paths[int(rng.integers(len(paths)))]
        with Image.open(chosen) as image:
            count += _write(image.convert("RGBA"), out / f"{prefix}-{name}.png")
    return count


def write_font_cutouts(font: Path, out: Path, *, prefix: str) -> int:
    """Turn the coloured characters of an emoji font into cut-outs, and return how many."""
    drawer = ImageFont.truetype(str(font), FONT_PX)
    missing = _character(drawer, chr(0x10FFFF)).tobytes()
    count = 0
    for first, last in FONT_RANGES:
        for code in range(first, last + 1):
            image = _character(drawer, chr(code))
            if image.tobytes() != missing:
                count += _write(image, out / f"{prefix}-{code:x}.png")
    return count


def _character(font: ImageFont.FreeTypeFont, text: str) -> Image.Image:
    image = Image.new("RGBA", (2 * FONT_PX, 2 * FONT_PX))
    ImageDraw.Draw(image).text((FONT_PX // 2, FONT_PX // 2), text, font=font, embedded_color=True)
    return image


def write_teacher_cutouts(dataset: Path, out: Path) -> int:
    """Cut the whole things that the teacher found out of their frames, and return how many.

    Taken are things that do not touch the frame's border, neither tiny nor most of the frame.
    """
    count = 0
    for folder in sorted((dataset / "Annotations").glob("*/whole-*")):
        sequence = folder.parent.name
        for path in sorted(folder.glob("*.png")):
            with Image.open(path) as mask, Image.open(_frame_of(dataset, sequence, path.stem)) as frame:
                cut = _cut(frame.convert("RGB"), np.asarray(mask.convert("L")) > OPAQUE)
            if cut is not None:
                count += _write(cut, out / f"teacher-{sequence}-{path.stem}-{folder.name}.png")
    return count


def _frame_of(dataset: Path, sequence: str, stem: str) -> Path:
    return dataset / "JPEGImages" / sequence / f"{stem}.jpg"


def _cut(frame: Image.Image, mask: NDArray[np.bool_]) -> Image.Image | None:
    """Give a frame the transparency of a mask; its border is drawn in a little, so that no background shows."""
    share = np.count_nonzero(mask) / mask.size
    touches = mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any()
    if touches or not TEACHER_AREA[0] < share < TEACHER_AREA[1]:
        return None
    soft = np.asarray(Image.fromarray(mask).convert("L").filter(ImageFilter.GaussianBlur(1.2)), np.float32) / 255
    alpha = np.clip((soft - 0.45) / 0.5, 0, 1)
    frame.putalpha(Image.fromarray((255 * alpha).astype(np.uint8)))
    return frame


def _write(image: Image.Image, path: Path) -> bool:
    """Write a cut-out; False where the picture is none."""
    cut = trimmed(image)
    if cut is None:
        return False
    make_folder(path.parent)
    with draft_path(path) as draft:
        cut.save(draft, "PNG")
    return True


def cutouts_in(folder: Path) -> Iterator[Path]:
    """Yield the cut-outs of a folder, in the order of their names."""
    yield from sorted(folder.glob("*.png"))
