"""Pictures as a video: a folder of them in natural order, or a single one."""

import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from masklet.errors import BadVideo

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
FORMATS = ("BMP", "JPEG", "PNG", "TIFF", "WEBP")
"""Pillow reads more kinds; these are common and its safest."""


def is_picture(path: Path) -> bool:
    """Whether a file is a still picture, by its content; a GIF is a film."""
    with path.open("rb") as file:
        head = file.read(12)
    return head.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"II*\0", b"MM\0*")) or (
        head[:4] == b"RIFF" and head[8:] == b"WEBP"
    )


class PictureReader:
    """Reads pictures with Pillow; camera orientation (EXIF) is applied, transparency dropped."""

    def __init__(self, path: Path, *, most_pixels: int) -> None:
        self._most_pixels = most_pixels
        self._paths = _pictures_in(path) if path.is_dir() else [path]
        self.height, self.width = self._size(self._paths[0])
        self.time_base = Fraction(1)
        self.average_rate = None
        self.has_audio = False
        self.pts = range(len(self._paths))

    def read(self, start: int, stop: int) -> Iterator[NDArray[np.uint8]]:
        """Yield pictures `start` to `stop - 1`."""
        for path in self._paths[start:stop]:
            size = self._size(path)
            if size != (self.height, self.width):
                raise BadVideo(
                    f"{path} is {size[1]}x{size[0]}, but {self._paths[0].name} is {self.width}x{self.height}: "
                    "pictures of one video must have one size"
                )
            try:
                with Image.open(path, formats=FORMATS) as image:
                    upright = ImageOps.exif_transpose(image)
                    yield np.array(upright.convert("RGB"))
            except (OSError, ValueError, SyntaxError) as error:
                raise BadVideo(f"{path} is damaged ({error}): remove it or replace it") from error

    def _size(self, path: Path) -> tuple[int, int]:
        """Return the displayed height and width, reading the header only."""
        try:
            with Image.open(path, formats=FORMATS) as image:
                width, height = image.size
                turned = image.getexif().get(0x0112, 1) >= 5  # EXIF orientations 5 to 8 swap the sides
                if getattr(image, "n_frames", 1) > 1 and image.format != "TIFF":
                    raise BadVideo(f"{path} is an animated {image.format}: convert it to GIF or MP4 first")
        except (UnidentifiedImageError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise BadVideo(f"{path} is not a picture that masklet reads ({', '.join(FORMATS)}): {error}") from error
        if height * width > self._most_pixels:
            raise BadVideo(f"{path} has {width}x{height} pixels: the limit is {self._most_pixels}, make it smaller")
        return (width, height) if turned else (height, width)


def _pictures_in(folder: Path) -> list[Path]:
    paths = [p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")]
    if not paths:
        raise BadVideo(f"{folder} holds no pictures: put {', '.join(sorted(SUFFIXES))} files there")
    return sorted(paths, key=_natural)


def _natural(path: Path) -> list[tuple[int, str]]:
    """Order by the numbers in a name: 2 before 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", path.name.lower())]
