"""Videos with true masks, as folders lay them out; knows no network and no score.

DAVIS 2016 and 2017 and MOSE: `JPEGImages/SEQUENCE/FRAME.jpg`, `Annotations/SEQUENCE/FRAME.png`, a palette index for
each object, or 0 and 255. SA-V: `Annotations*/SEQUENCE/OBJECT/FRAME.png`, a picture an object, not on every frame.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from masklet.errors import BadVideo
from masklet.video.pictures import pictures_in

RESOLUTIONS = ("480p", "Full-Resolution", "1080p")
"""Folders between DAVIS's `JPEGImages` and its sequences, in the order of choice."""
MOST_NAMED = 3
"""So many of the sequences without pictures are named in an error."""


@dataclass(frozen=True)
class Sequence:
    """One video of a dataset."""

    name: str
    pictures: Path
    truths: Path
    """Holds one picture a frame, or one folder an object with one picture a frame."""

    @cached_property
    def per_object(self) -> bool:
        """Whether each object has pictures of its own: then masks may overlap, and an object lack some frames."""
        return not any(self.truths.glob("*.png"))

    def frames(self) -> dict[int, str]:
        """Return the annotated frames: index in the video to the file's stem."""
        annotated = {path.stem for path in self.truths.glob("*/*.png" if self.per_object else "*.png")}
        stems = [path.stem for path in pictures_in(self.pictures)]
        return {index: stem for index, stem in enumerate(stems) if stem in annotated}

    def truth(self, stem: str, *, size_hw: tuple[int, int] | None = None) -> dict[str, NDArray[np.bool_]]:
        """Return the true masks of a frame by object: those with a picture of their own, or those that can be seen.

        Raises `BadVideo` if they are not of the size that is given, which is the picture's.
        """
        masks = self._masks(stem)
        for mask in masks.values():
            if size_hw is not None and mask.shape != size_hw:
                raise BadVideo(
                    f"the masks of {self.name} are {mask.shape[1]}x{mask.shape[0]} in {self.truths} (frame {stem}), "
                    f"but its pictures {size_hw[1]}x{size_hw[0]}: give both in one resolution"
                )
        return masks

    def _masks(self, stem: str) -> dict[str, NDArray[np.bool_]]:
        if self.per_object:
            return {path.parent.name: _labels(path) != 0 for path in sorted(self.truths.glob(f"*/{stem}.png"))}
        labels = _labels(self.truths / f"{stem}.png")
        return {str(label): labels == label for label in np.unique(labels).tolist() if label}


def sequences(dataset: str | Path) -> tuple[Sequence, ...]:
    """Find the sequences of a dataset's folder, those whose masks are secret left out.

    Raises `BadVideo` where there are none, and where masks lack their pictures: then a copy was interrupted.
    """
    dataset = Path(dataset)
    images = _folder(dataset, "JPEGImages")
    annotations = _folder(dataset, "Annotations")
    masked = [path for path in sorted(annotations.iterdir()) if path.is_dir() and path.name[0] != "."]
    found = [Sequence(path.name, images / path.name, path) for path in masked if (images / path.name).is_dir()]
    if not found:
        raise BadVideo(
            f"{dataset} has no sequence with both pictures and masks: {images} and {annotations} must hold folders of "
            "the same names"
        )
    _refuse_masks_alone(masked, images)
    for sequence in found:
        if not sequence.frames():
            raise BadVideo(
                f"{sequence.truths} holds no mask of a picture in {sequence.pictures}: a mask is named as its picture, "
                "00000.png as 00000.jpg"
            )
    return tuple(found)


def _refuse_masks_alone(masked: list[Path], images: Path) -> None:
    """Raise `BadVideo` for folders of masks without a folder of pictures; what holds no masks is no sequence."""
    bare = [path.name for path in masked if not (images / path.name).is_dir() and any(path.rglob("*.png"))]
    if bare:
        named = ", ".join(bare[:MOST_NAMED]) + (", ..." if len(bare) > MOST_NAMED else "")
        raise BadVideo(
            f"{len(bare)} of {len(masked)} sequences have masks in {masked[0].parent}, but no pictures in {images} "
            f"({named}): copy their pictures too, or take their masks away"
        )


def _labels(path: Path) -> NDArray[np.integer]:
    """Read a picture whose pixels are numbers of objects: a palette's indices, or grey values."""
    try:
        with Image.open(path, formats=("PNG",)) as image:
            labels = np.asarray(image)
    except (OSError, ValueError, SyntaxError) as error:
        raise BadVideo(f"{path} cannot be read as a mask ({error}): replace it") from error
    if labels.ndim == 2:
        return labels.astype(np.int64)
    if (labels[..., :3] != labels[..., :1]).any():
        raise BadVideo(f"{path} is a colour picture: a mask has a palette, or grey values")
    return labels[..., 0].astype(np.int64)


def _folder(dataset: Path, kind: str) -> Path:
    """Find `JPEGImages` or `Annotations`, with SA-V's frame rates or DAVIS's resolution below."""
    found = sorted(path for path in dataset.glob(f"{kind}*") if path.is_dir())
    if not found:
        raise BadVideo(f"{dataset} has no folder {kind}: give a dataset laid out as DAVIS, MOSE or SA-V")
    inner = [found[0] / name for name in RESOLUTIONS]
    return next((path for path in inner if path.is_dir()), found[0])
