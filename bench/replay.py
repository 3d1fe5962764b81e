"""Make a dataset's sequences twice more, so that a comparison of models rests on three times as many.

    python bench/replay.py DATASET OUT

writes `OUT/backward`, every sequence from its last frame to its first, and `OUT/mirrored`, left and right exchanged;
`masklet evaluate --dataset OUT/backward` then begins where the sequence ends. What one model only got right by luck,
as where a small thing comes back from behind a tree, seldom goes right three times.
"""

import argparse
import shutil
from pathlib import Path

from PIL import Image, ImageOps

from masklet.dataset import Sequence, sequences
from masklet.video.pictures import pictures_in

JPEG_QUALITY = 97


def backward(sequence: Sequence, out: Path) -> None:
    """Write a sequence with its frames in the opposite order."""
    pictures = pictures_in(sequence.pictures)
    stems = dict(zip((p.stem for p in pictures), (p.stem for p in reversed(pictures)), strict=True))
    for path, copy in copies(sequence, out):
        shutil.copy(path, copy.with_stem(stems[path.stem]))


def mirrored(sequence: Sequence, out: Path) -> None:
    """Write a sequence with left and right exchanged; masks keep their palette."""
    for path, copy in copies(sequence, out):
        with Image.open(path) as picture:
            ImageOps.mirror(picture).save(copy, quality=JPEG_QUALITY)


def copies(sequence: Sequence, out: Path) -> list[tuple[Path, Path]]:
    """Return each picture and its masks, and where their copies belong; the folders are made.

    What else lies there, such as notes or a mask without a picture, is no part of the sequence.
    """
    pictures = pictures_in(sequence.pictures)
    stems = {path.stem for path in pictures}
    masks = sorted(path for path in sequence.truths.rglob("*.png") if path.stem in stems)
    pairs = []
    for folder, kind, paths in (
        (sequence.pictures, "JPEGImages", pictures),
        (sequence.truths, "Annotations", masks),
    ):
        for path in paths:
            copy = out / kind / sequence.name / path.relative_to(folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            pairs.append((path, copy))
    return pairs


def main() -> None:
    """Write both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    for sequence in sequences(arguments.dataset):
        backward(sequence, arguments.out / "backward")
        mirrored(sequence, arguments.out / "mirrored")


if __name__ == "__main__":
    main()
