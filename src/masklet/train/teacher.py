"""Masks that a teacher finds by itself: SAM at a large input size, clicked on a grid over a single picture.

SAM's own recipe (Kirillov et al., arXiv 2304.02643, appendix B): of each click's three readings those are kept that SAM
thinks well of and that hardly change with the threshold; near-duplicates go. Here it is also kept which clicks gave a
mask, and which mean it, as their largest reading, so that a student can learn that one click means the whole thing.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from masklet.model.config import NANO
from masklet.model.holes import fill_holes
from masklet.model.layers import resize
from masklet.model.network import Features, Network, Recollection
from masklet.model.prompt_encoder import POSITIVE
from masklet.tracker import Tracker
from masklet.train.guard import refuse_evaluation_frame
from masklet.train.prepared import is_made, reduced, write_sequence
from masklet.video import open_video
from masklet.weights import load_network

IMAGE_PX = 1024
"""What SAM was trained at; the student is smaller and learns from it."""
GRID = 12
"""Clicks along the longer side."""
BATCH = 16
LEAST_IOU, LEAST_STABILITY, STABILITY_OFFSET = 0.88, 0.88, 1.0
"""Predicted IoU, and IoU of the mask with itself when its threshold moves by the offset up and down, in logits.

SAM asks for a stability of 0.95. MobileSAM's borders are softer: there whole people have 0.9 with a predicted IoU of
0.97, and 0.95 leaves their shirts and trousers only.
"""
AREAS = (0.001, 0.6)
"""Share of the picture that a mask may fill."""
SAME = 0.8
"""Two masks are one from this IoU on."""
WHOLE = 0.5
"""A mask is a whole thing if at least this share of the clicks that gave it mean it."""
PLAUSIBLE_IOU, PLAUSIBLE_AREA = 0.75, 0.9
"""A reading not good enough to keep, but so good, still says that a smaller reading of its click is only a part."""
LARGEST = 0.8
"""Share of a click's largest plausible reading that a reading fills, to be what the click means."""


@dataclass(eq=False)
class Found:
    """One mask of a picture."""

    logits: NDArray[np.float32]
    """`[4h, 4w]`, above 0 is the thing; small holes filled and crumbs removed."""
    iou: float
    """Predicted."""
    stability: float
    clicks: list[tuple[float, float]] = field(default_factory=list)
    """x, y of the clicks that gave it, in pixels of the picture."""
    meant: list[tuple[float, float]] = field(default_factory=list)
    """Those of them that mean it: they have no larger plausible reading."""

    @property
    def area(self) -> float:
        """Share of the picture."""
        return float((self.logits > 0).mean())

    @property
    def is_whole(self) -> bool:
        """Whether it is a whole thing rather than a part of one."""
        return len(self.meant) >= WHOLE * len(self.clicks)


@dataclass(frozen=True, eq=False)
class _Readings:
    """Good readings of many clicks, one a row."""

    logits: Tensor
    """`[n, 4h, 4w]`."""
    ious: Tensor
    stabilities: Tensor
    clicks: Tensor
    """`[n]`, which click."""
    meant: Tensor
    """`[n]` bool, whether the click has no larger plausible reading."""

    @property
    def cells(self) -> Tensor:
        """Masks as rows of numbers, `[n, cells]`."""
        return (self.logits > 0).flatten(1).float()


def load_teacher(weights: str | Path, *, image_px: int = IMAGE_PX) -> Network:
    """Load SAM from a file of `nano`'s shape, to look at pictures of another size than the student's."""
    teacher = Network(replace(NANO, image_px=image_px))
    teacher.load_state_dict(load_network(weights, device="cpu", dtype="float32").state_dict())
    return teacher.eval().requires_grad_(False)


@torch.inference_mode()
def find(tracker: Tracker, features: Features, more: NDArray[np.float64] | None = None) -> list[Found]:
    """Find the things of a picture that a tracker has seen, whole ones first, then by area, largest first.

    `more` are clicks `[n, 2]` beside those of the grid.
    """
    clicks = _grid(tracker.geometry.height, tracker.geometry.width)
    if more is not None:
        clicks = np.concatenate((clicks, more))
    readings = _read(tracker, features, clicks)
    return sorted(_merged(readings, clicks), key=lambda found: (not found.is_whole, -found.area))


def at_size(logits: NDArray[np.float32], size_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the mask of logits `[4h, 4w]` at a picture's size."""
    full = resize(torch.from_numpy(logits)[None, None], size_hw)
    return np.asarray(full[0, 0].numpy() > 0)


def write_teacher_masks(
    clips: Sequence[Path],
    out: Path,
    network: Network,
    *,
    seed: int,
    frames_per_clip: int,
    report: Callable[[str], None] = lambda line: None,
) -> None:
    """Write the masks of some frames of each clip as one-frame sequences in SA-V's layout; what is there is kept.

    Objects are folders `whole-000`, ..., `part-000`, ..., largest first; `objects.json` beside them says how sure the
    teacher is, and which clicks mean each.
    """
    for turn in range(frames_per_clip):  # all clips by turns, so that a first part is of use already
        for path in clips:
            with open_video(path) as video:
                index = _moment(path, seed, turn, frames_per_clip, video.frame_count)
                name = f"{path.stem}-{index:05d}"
                if is_made(out, name):
                    continue
                [frame] = video.frames_at([index])
            refuse_evaluation_frame(frame.rgb, f"{path}, frame {index}")
            tracker = Tracker(network, height=frame.rgb.shape[0], width=frame.rgb.shape[1])
            found = find(tracker, tracker.see(frame.rgb))
            picture = reduced(frame.rgb)
            names = named(found)
            masks = {name: [at_size(one.logits, picture.size[::-1])] for name, one in names.items()}
            scale = picture.width / frame.rgb.shape[1]
            write_sequence(out, name, [picture], masks, {name: _notes(one, scale) for name, one in names.items()})
            report(f"{name}: {sum(one.is_whole for one in found)} whole things, {len(found)} masks")


def named(found: Sequence[Found]) -> dict[str, Found]:
    """Name masks by what they are, in their order."""
    names: dict[str, Found] = {}
    for one in found:
        kind = "whole" if one.is_whole else "part"
        names[f"{kind}-{sum(name.startswith(kind) for name in names):03d}"] = one
    return names


def _moment(path: Path, seed: int, turn: int, turns: int, frame_count: int) -> int:
    """Return the frame of a turn: anywhere in its part of the clip, and the same whatever else is done."""
    rng = np.random.default_rng((seed, turn, zlib.crc32(path.stem.encode())))
    return min(frame_count - 1, int((turn + rng.random()) * frame_count / turns))


def _notes(found: Found, scale: float) -> dict[str, object]:
    meant = [[round(scale * x, 1), round(scale * y, 1)] for x, y in found.meant]
    return {"iou": round(found.iou, 3), "stability": round(found.stability, 3), "area": found.area, "clicks": meant}


def _grid(height: int, width: int) -> NDArray[np.float64]:
    """Return clicks in the middles of squarish fields that cover a picture, `[n, 2]`."""
    step = max(height, width) / GRID
    rows, columns = max(1, round(height / step)), max(1, round(width / step))
    y, x = (np.arange(rows) + 0.5) * height / rows, (np.arange(columns) + 0.5) * width / columns
    return np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)


def _read(tracker: Tracker, features: Features, clicks: NDArray[np.float64]) -> _Readings:
    """Ask for all readings of all clicks, and keep the good ones."""
    network = tracker.network
    encoder = network.sam_prompt_encoder
    image = network.recall(features, [Recollection((), (), 1)])
    xy = torch.tensor(tracker.geometry.scale([(x, y) for x, y in clicks.tolist()]))
    places, nothing = encoder.positions(features.size_hw), encoder.mask(None, features.size_hw)
    kept: list[_Readings] = []
    for start in range(0, len(xy), BATCH):
        points = xy[start : start + BATCH, None]
        tokens = encoder.points(points, torch.full(points.shape[:2], POSITIVE))
        answers = network.sam_mask_decoder(image.expand(len(points), -1, -1, -1), places, tokens, nothing, None)
        kept.append(_good(answers.logits[:, 1:], answers.ious[:, 1:], start))
    columns = zip(*((k.logits, k.ious, k.stabilities, k.clicks, k.meant) for k in kept), strict=True)
    return _Readings(*(torch.cat(column) for column in columns))


def _good(logits: Tensor, ious: Tensor, start: int) -> _Readings:
    """Choose among the readings `[b, 3, 4h, 4w]` of the clicks from number `start` on."""
    inner = (logits > STABILITY_OFFSET).sum((2, 3))
    outer = (logits > -STABILITY_OFFSET).sum((2, 3))
    stabilities = inner / outer.clamp(min=1)
    areas = (logits > 0).float().mean((2, 3))
    good = (ious >= LEAST_IOU) & (stabilities >= LEAST_STABILITY) & (areas >= AREAS[0]) & (areas <= AREAS[1])
    plausible = (ious >= PLAUSIBLE_IOU) & (areas <= PLAUSIBLE_AREA)
    largest = torch.where(plausible, areas, 0).amax(1, keepdim=True)
    rows, columns = good.nonzero(as_tuple=True)
    cleaned = logits[rows, columns][:, None]
    if len(rows):
        cleaned = -fill_holes(-fill_holes(cleaned))
    meant = (areas >= LARGEST * largest)[rows, columns]
    return _Readings(cleaned[:, 0], ious[rows, columns], stabilities[rows, columns], rows + start, meant)


def _merged(readings: _Readings, clicks: NDArray[np.float64]) -> list[Found]:
    """Make one of readings that are the same, the best first; each remembers its clicks."""
    cells = readings.cells
    areas = cells.sum(1)
    shared = cells @ cells.T
    ious = shared / (areas[:, None] + areas[None] - shared).clamp(min=1)
    found: dict[int, Found] = {}
    for row in (readings.ious.clamp(max=1) + readings.stabilities).argsort(descending=True).tolist():
        same = [kept for kept in found if ious[row, kept] >= SAME]
        # Of several kept ones that it is like, the one that it is most like.
        home = max(same, key=lambda kept: float(ious[row, kept])) if same else row
        if not same:
            found[row] = Found(
                readings.logits[row].numpy(), float(readings.ious[row]), float(readings.stabilities[row])
            )
        click = int(readings.clicks[row])
        place = (float(clicks[click, 0]), float(clicks[click, 1]))
        if place not in found[home].clicks:
            found[home].clicks.append(place)
        if bool(readings.meant[row]) and place not in found[home].meant:
            found[home].meant.append(place)
    return list(found.values())
