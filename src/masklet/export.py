"""Results as files: numbered pictures, masks of single objects, and `manifest.json`. Knows no network.

Every file appears under its name only when it is whole: it is written as `.<random>.part` beside it and renamed. That
outlives a killed process; against a power cut nothing is flushed to the disk frame by frame, so whoever must promise
that (a server publishing a job) syncs the folder once at the end. A refused write is always `NoSpace`.

`manifest.json`, version 1, strict JSON in UTF-8, one frame a line, frames ascending (numbers that are not finite are
null; fields may be added within a version, so readers ignore what they do not know):

    {"format": "masklet-manifest", "version": 1, "made_by": "masklet 0.1.0", "model": "nano",
     "source": {"name": "dog.mp4", "height": 720, "width": 1280, "frame_count": 150,   null: length not known
                "time_base": "1/12800", "average_rate": "30"},                         null: rate varies, or a picture
     "request": {...the options as asked...},
     "objects": [{"number": 1, "name": "dog", "colour": "#e69f00",
                  "folder": "001_dog"}],             holds frame_%05d.png of this object; null without --per-object
     "frames": [
       {"frame": 0, "seconds": 0.0, "file": "frame_00000.webp",                        null: no picture of its own
        "objects": [{"object": "dog",
                     "present": true,                the network says it can be seen: score > 0
                     "score": 9.1, "iou": 0.93,      occlusion logit; IoU the network predicts of its mask
                     "area": 5120,                   pixels
                     "box": [x0, y0, x1, y1],        x1, y1 exclusive; null if the mask is empty
                     "rle": {"size": [h, w], "counts": "..."}}]}],                     COCO's compressed string
     "frame_count": 1, "video": "output_video.mp4",  null: pictures were asked for
     "complete": true, "message": null}              false and why, if the job ended early

Every frame lists every object in the order of "objects". One that is hidden or gone has an empty mask's RLE, so each
entry decodes; one that was not tracked on that frame has null score, iou, box and rle, because nothing is known.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
import unicodedata
from array import array
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self, get_args

import numpy as np
from PIL import Image

from masklet.choices import OutputFormat
from masklet.errors import BadPrompt, NoSpace, Problem
from masklet.files import Draft, atomic_write, make_folder
from masklet.masks import FrameMasks, box_of, encode_rle
from masklet.render import RGB, Picture
from masklet.video import Video

OUTPUT_FORMATS: tuple[OutputFormat, ...] = get_args(OutputFormat)
MANIFEST_FORMAT = "masklet-manifest"
MANIFEST_VERSION = 1

_LONGEST_SIDE_PX: dict[OutputFormat, int] = {"webp": 16_383, "jpg": 65_500, "png": 2**31 - 1}
"""JPEG itself has 65,535; libjpeg takes a few less."""
_SLUG_CHARACTERS = 40


def _made_by() -> str:
    """Name this masklet; a checkout that was never installed, as in Cog's image, has no version."""
    with suppress(PackageNotFoundError):
        return f"masklet {version('masklet')}"
    return "masklet"


def encode_picture(picture: Picture, *, output_format: OutputFormat, quality: int) -> bytes:
    """Encode [h, w, 3] or one-channel [h, w] pixels; `quality` 0..100 acts on jpg and on webp with colour.

    One-channel pictures are masks: webp keeps them exactly (lossless is also smaller and faster there, though webp
    itself has no one-channel kind and readers get three equal ones); jpg cannot, so threshold it at 127.
    """
    if max(picture.shape[:2]) > _LONGEST_SIDE_PX[output_format]:
        raise BadPrompt(
            f"The picture is {picture.shape[1]}x{picture.shape[0]}, but a {output_format} file has at most "
            f"{_LONGEST_SIDE_PX[output_format]} pixels a side: choose output_format = 'png'."
        )
    image, held = Image.fromarray(picture), io.BytesIO()
    if output_format == "jpg":
        image.save(held, "JPEG", quality=quality)
    elif output_format == "webp":
        # Method 2 of 0..6: less than half the default's time for 4 % more bytes.
        image.save(held, "WEBP", quality=quality, method=2, lossless=picture.ndim == 2)
    else:
        # Level 6, the default, takes three times as long and saves nothing on video pictures.
        image.save(held, "PNG", compress_level=3)
    return held.getvalue()


class FrameImages:
    """Numbered pictures in one folder, `frame_%05d.ext` by source index; `write` may be called from several threads."""

    def __init__(self, folder: Path, *, output_format: OutputFormat = "webp", quality: int = 80) -> None:
        if output_format not in OUTPUT_FORMATS:
            raise BadPrompt(
                f"output_format = {output_format!r} is not known: choose one of {', '.join(OUTPUT_FORMATS)}."
            )
        if not 0 <= quality <= 100:
            raise BadPrompt(f"output_quality = {quality} is outside 0..100: 80 is a good start, 100 the best.")
        self._folder, self._format, self._quality = folder, output_format, quality
        make_folder(folder)

    def write(self, index: int, picture: Picture) -> Path:
        """Write one frame's picture, in place of an older one, and say where it is."""
        path = self._folder / f"frame_{index:05d}.{self._format}"
        data = encode_picture(picture, output_format=self._format, quality=self._quality)
        with atomic_write(path) as draft:
            draft.write(data)
        return path


class PerObjectMasks:
    """One mask per object and frame, `FOLDER/NNN_NAME/frame_%05d.png`: 8 bit, 0 or 255, black where an object is not.

    `folders` maps each object's name to its folder's name, in the order given.
    """

    def __init__(self, folder: Path, objects: Sequence[str]) -> None:
        self.folders = {name: f"{number:03d}_{_slug(name)}" for number, name in enumerate(objects, start=1)}
        self._images = {name: FrameImages(folder / self.folders[name], output_format="png") for name in objects}

    def write(self, masks: FrameMasks) -> tuple[Path, ...]:
        """Write one PNG per object of this writer, whether or not `masks` knows the object."""
        rows = _rows(self._images, masks)
        absent = np.zeros(masks.masks.shape[1:], np.uint8)
        return tuple(
            images.write(masks.frame, absent if row is None else masks.masks[row].view(np.uint8) * np.uint8(255))
            for images, row in zip(self._images.values(), rows, strict=True)
        )


def _slug(name: str) -> str:
    """Spell a name in A-Z a-z 0-9 - _ only, never empty: what every file system takes (the number makes it unique)."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode("ascii")
    return re.sub(r"[^A-Za-z0-9-]+", "_", plain).strip("_-")[:_SLUG_CHARACTERS].rstrip("_-") or "object"


def _rows(objects: Mapping[str, object], masks: FrameMasks) -> list[int | None]:
    """Say in which row of `masks` each object is, None where it is not."""
    rows = {name: row for row, name in enumerate(masks.objects)}
    if unknown := [name for name in rows if name not in objects]:
        raise BadPrompt(f"Frame {masks.frame} has object {unknown[0]!r}, but the output was opened for {[*objects]}.")
    return [rows.get(name) for name in objects]


def describe_source(video: Video) -> dict[str, object]:
    """Say what was segmented; the file's name only, not the folders of the machine it lay on."""
    return {
        "name": Path(os.path.abspath(video.path)).name,  # of "." too
        "height": video.height,
        "width": video.width,
        "frame_count": video.frame_count,
        "time_base": str(video.time_base),
        "average_rate": None if video.average_rate is None else str(video.average_rate),
    }


class Manifest:
    """`manifest.json`, written frame by frame: 24 bytes of memory a frame, whatever the masks.

    Frames may come in any order, and one that comes again replaces the earlier. As a context manager it closes as
    complete, or, after an error, as incomplete with the error's message. Without a single frame nothing is left.
    """

    def __init__(
        self,
        path: Path,
        *,
        source: Mapping[str, object],
        model: str,
        request: Mapping[str, object],
        colours: Mapping[str, RGB],
        folders: Mapping[str, str] | None = None,
    ) -> None:
        """Open it for the objects of `colours`, in that order; `request` holds only what JSON can."""
        objects = [
            {"number": number, "name": name, "colour": "#{:02x}{:02x}{:02x}".format(*colour)}
            | {"folder": folders[name] if folders else None}
            for number, (name, colour) in enumerate(colours.items(), start=1)
        ]
        head = {"format": MANIFEST_FORMAT, "version": MANIFEST_VERSION, "made_by": _made_by()}
        head |= {"model": model, "source": source, "request": request, "objects": objects}
        self._head = _json(head)[:-1] + b',\n"frames": [\n'
        self._objects, self._open = colours, True
        self._places = array("q")  # frame, offset, length of each line; one flat array keeps it at 24 bytes
        make_folder(path.parent)
        self._draft = Draft(path)
        try:
            self._draft.write(self._head)
        except BaseException:
            self._draft.discard()
            raise

    def add(self, masks: FrameMasks, *, file: str | None = None) -> None:
        """Write one frame's entry; `file` is its picture's name in the manifest's folder."""
        rows = zip(self._objects, _rows(self._objects, masks), strict=True)
        entry = {"frame": masks.frame, "seconds": masks.seconds, "file": file}
        self._append(masks.frame, _json(entry | {"objects": [_on_frame(name, row, masks) for name, row in rows]}))

    def close(self, *, complete: bool = True, message: str | None = None, video: str | None = None) -> None:
        """Put the frames in order, write the end and let the file appear; what was finished is listed either way.

        `message` says why it is not complete; `video` is the film's name in the manifest's folder.
        """
        self._open = False
        try:
            self._sort()
            tail = {"frame_count": len(self._places) // 3, "video": video, "complete": complete, "message": message}
            self._draft.write(b"\n],\n" + _json(tail)[1:] + b"\n", at=self._end())
        except BaseException:
            self._draft.discard()
            raise
        self._draft.publish()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if not self._open:
            return
        if error is None:
            self.close()
        elif self._places:
            # The error on its way says more than a second one about the same full disk.
            with suppress(NoSpace):
                why = str(error) if isinstance(error, Problem) else f"Stopped by {type(error).__name__}."
                self.close(complete=False, message=why)
        else:
            self._draft.discard()

    def _end(self) -> int:
        return self._places[-2] + self._places[-1] if self._places else len(self._head)

    def _append(self, frame: int, line: bytes) -> None:
        # An interrupt between the write and the note of it leaves bytes that the next write goes over.
        start, separator = self._end(), b",\n" if self._places else b""
        self._draft.write(separator + line, at=start)
        self._places.extend((frame, start + len(separator), len(line)))

    def _sort(self) -> None:
        """Rewrite the frames ascending, the last of each, if they came otherwise (a pass backward, a correction)."""
        newest_first = np.array(self._places, np.int64).reshape(-1, 3)[::-1]
        if (np.diff(newest_first[:, 0]) < 0).all():
            return
        kept = newest_first[np.unique(newest_first[:, 0], return_index=True)[1]]
        came, self._draft, self._places = self._draft, Draft(self._draft.path), array("q")
        try:
            self._draft.write(self._head)
            for frame, start, length in kept.tolist():
                self._append(frame, came.read(start, length))
        finally:
            came.discard()


def read_manifest(path: str | Path) -> dict[str, Any]:
    """Read a manifest back; the module's docstring explains each field."""
    try:
        held = json.loads(Path(path).read_bytes(), parse_constant=lambda name: _refuse(f"it holds {name}"))
        if not isinstance(held, dict) or held.get("format") != MANIFEST_FORMAT:
            _refuse(f'its "format" is not "{MANIFEST_FORMAT}"')
        if held.get("version") != MANIFEST_VERSION:
            _refuse(f"its version is {held.get('version')!r}, and this masklet reads {MANIFEST_VERSION}")
    except (OSError, ValueError) as error:
        raise BadPrompt(
            f"{path} cannot be read as a manifest: {error}. Give a manifest.json that masklet wrote."
        ) from error
    return held


def _refuse(why: str) -> NoReturn:
    raise ValueError(why)


def _on_frame(name: str, row: int | None, masks: FrameMasks) -> dict[str, object]:
    nothing = {"object": name, "present": False, "score": None, "iou": None, "area": 0, "box": None, "rle": None}
    if row is None:
        return nothing
    mask, score = masks.masks[row], float(masks.object_scores[row])
    return nothing | {
        "present": score > 0,
        "score": score,
        "iou": float(masks.ious[row]),
        "area": int(np.count_nonzero(mask)),
        "box": box_of(mask),
        "rle": encode_rle(mask),
    }


def _json(value: object) -> bytes:
    """Write strict JSON on one line; what JSON has no kind for (a path, a fraction) as its text."""
    text = json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, default=str)
    try:
        return text.encode()
    except UnicodeEncodeError:  # half a surrogate pair: a name that came from undecodable bytes
        return json.dumps(_finite(value), allow_nan=False, default=str).encode()


def _finite(value: object) -> object:
    """Put null for each number that is not finite, however deep."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(held) for key, held in value.items()}
    return [_finite(held) for held in value] if isinstance(value, (list, tuple)) else value
