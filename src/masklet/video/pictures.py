"""Pictures as a video: a folder of them in natural order, or a single one."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from masklet.errors import BadVideo, TooLarge

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
FORMATS = ("BMP", "JPEG", "PNG", "TIFF", "WEBP")
"""Pillow reads more kinds; these are common and its safest."""
ANIMATED = {"PNG", "WEBP"}
"""Kinds whose further pictures are later ones; in TIFF and JPEG (MPO) they are thumbnails, depths, other views."""
ORIENTATION = 0x0112
"""The EXIF tag; values 5 to 8 swap the sides."""
TIFF_WIDTH, TIFF_HEIGHT = 256, 257


def is_picture(path: Path) -> bool:
    """Whether a file is a still picture, by its content; a GIF is a film."""
    with path.open("rb") as file:
        head = file.read(12)
    return head.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"II*\0", b"MM\0*")) or (
        head[:4] == b"RIFF" and head[8:] == b"WEBP"
    )


class PictureReader:
    """Reads pictures with Pillow. All sizes are compared at the start, so that no work is lost to the last one.

    Camera orientation (EXIF) is applied, 16 bits are scaled to 8, transparency is dropped (the colours below it show).
    Of a file with several pictures the first counts; an animation is refused.
    """

    def __init__(self, path: Path, *, most_pixels: int) -> None:
        self._most_pixels = most_pixels
        self._paths = pictures_in(path) if path.is_dir() else [path]
        self.height, self.width = self._size(self._paths[0])
        for other in self._paths[1:]:
            self._check_like_first(other, *self._size(other))
        self.time_base = Fraction(1)
        self.average_rate = None
        self.has_audio = False
        self.pts = range(len(self._paths))

    def read(self, start: int, stop: int) -> Iterator[NDArray[np.uint8]]:
        """Yield pictures `start` to `stop - 1`."""
        for path in self._paths[start:stop]:
            with _opened(path) as image:
                rgb = _rgb(path, ImageOps.exif_transpose(image))
            self._check_like_first(path, *rgb.shape[:2])
            yield rgb

    def _size(self, path: Path) -> tuple[int, int]:
        """Return the displayed height and width, reading the header only."""
        with _opened(path) as image:
            if image.format in ANIMATED and getattr(image, "is_animated", False):
                raise BadVideo(f"{path} is an animated {image.format}: convert it to GIF or MP4 first")
            width, height = image.size
            tags = getattr(image, "tag_v2", None)
            if tags is not None:  # of a TIFF; its `size` is turned already in some versions of Pillow
                width, height = tags[TIFF_WIDTH], tags[TIFF_HEIGHT]
            turned = _orientation(image) in range(5, 9)
        if height * width > self._most_pixels:
            raise TooLarge(f"{path} has {width}x{height} pixels: the limit is {self._most_pixels}, make it smaller")
        return (width, height) if turned else (height, width)

    def _check_like_first(self, path: Path, height: int, width: int) -> None:
        if (height, width) != (self.height, self.width):
            raise BadVideo(
                f"{path} is {width}x{height}, but {self._paths[0].name} is {self.width}x{self.height}: "
                "pictures of one video must have one size"
            )


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open a picture, and say in our words what Pillow has against it."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            yield image
    except BadVideo:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooLarge(f"{path} has too many pixels, make it smaller: {error}") from error
    except Exception as error:  # readers of damaged pictures raise whatever they stumble over
        raise BadVideo(
            f"{path} is damaged, or not a picture that masklet reads ({', '.join(FORMATS)}): {error}"
        ) from error


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation as far as the header tells."""
    # To look for a PNG's EXIF behind its pixels, Pillow would decode them.
    if image.format == "PNG" and not {"exif", "Raw profile type exif"} & image.info.keys():
        return 1
    return int(image.getexif().get(ORIENTATION, 1))


def _rgb(path: Path, image: Image.Image) -> NDArray[np.uint8]:
    """Return `[h, w, 3]` of a picture of any mode that has a white."""
    if image.mode.startswith("I;16"):
        grey = (np.asarray(image) >> 8).astype(np.uint8)  # Pillow itself would clip all above 255
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise BadVideo(f"{path} has 32-bit pixels, of which nobody knows the white: convert it to 8 or 16 bits")
    if image.mode == "P":
        image = image.convert("RGBA")  # a palette with transparency has no direct way to RGB
    return np.array(image.convert("RGB"))


def pictures_in(folder: Path) -> list[Path]:
    """Return the pictures of a folder in the order of their frames; raises `BadVideo` if it has none."""
    paths = [p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith(".") and p.is_file()]
    if not paths:
        raise BadVideo(f"{folder} holds no pictures: put {', '.join(sorted(SUFFIXES))} files there")
    return sorted(paths, key=_natural)


def _natural(path: Path) -> tuple[list[tuple[int, str]], str]:
    """Order by the numbers in a name: 2 before 10; names that differ in nothing else, by their letters."""
    parts = re.split(r"([0-9]+)", path.name.lower())
    return [(int(part), "") if n % 2 else (-1, part) for n, part in enumerate(parts)], path.name
