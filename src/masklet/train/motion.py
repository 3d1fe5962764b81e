"""Real motion: the teacher's masks of one frame, followed through the next ones and back, kept where both ways agree.

A tracker that lost a thing seldom finds the same wrong mask on its way back, so agreement stands in for a person.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from masklet.dataset import sequences
from masklet.metrics import region_similarity
from masklet.model.network import Features, Network
from masklet.prompts import Prompt
from masklet.tracker import Tracker
from masklet.train.guard import read_allowed, refuse_evaluation_frame
from masklet.train.prepared import is_made, reduced, write_sequence
from masklet.train.teacher import Found, at_size, find, named
from masklet.video import Video, open_video

FRAMES = 8
STRIDES = (1, 2, 3)
AGREE = 0.85
"""Forward and backward mask are the same from this IoU on."""
LEAST_FRAMES = 4
WHOLES, PARTS = 5, 1
"""So many things are followed at most."""
AREAS = (0.002, 0.35)
"""Share of the frame that a thing fills to be followed."""
CHANGE_PX, CHANGE_FRAMES = 16, 4
"""Change is looked at over so many frames, in cells of so many pixels."""
CLICKS = 32
"""Clicks beside the teacher's grid, where the picture changes."""
Masks = Mapping[str, Sequence[NDArray[np.float32]]]
"""Logits `[4h, 4w]` of each object on each frame."""


def write_motion(
    clips: Sequence[Path],
    out: Path,
    network: Network,
    *,
    seed: int,
    per_clip: int,
    report: Callable[[str], None] = lambda line: None,
) -> None:
    """Write short sequences of each clip in SA-V's layout; what is there is kept. The network is also the teacher."""
    for turn in range(per_clip):  # all clips by turns, so that a first part is of use already
        for path in clips:
            with open_video(path) as video:
                rng = np.random.default_rng((seed, turn, zlib.crc32(path.stem.encode())))
                stride = STRIDES[turn % len(STRIDES)]
                last = max(0, video.frame_count - 1 - stride * (FRAMES - 1))
                start = min(last, int((turn + rng.random()) * (last + 1) / per_clip))
                name = f"{path.stem}-{start:05d}-{stride}"
                if is_made(out, name):
                    continue
                frames = _frames(video, start, stride)
            for i, rgb in enumerate(frames):
                refuse_evaluation_frame(rgb, f"{path}, frame {start + stride * i}")
            report(f"{name}: {_write(out, name, frames, network, rng)}")


def _frames(video: Video, start: int, stride: int) -> list[NDArray[np.uint8]]:
    stop = min(video.frame_count, start + stride * (FRAMES - 1) + 1)
    return [frame.rgb for frame in video.frames(start, stop) if (frame.index - start) % stride == 0]


def _write(
    out: Path, name: str, frames: Sequence[NDArray[np.uint8]], network: Network, rng: np.random.Generator
) -> str:
    """Follow the things of the first frame, write what agreed, and say so."""
    size = {"height": frames[0].shape[0], "width": frames[0].shape[1], "frame_count": len(frames)}
    tracker = Tracker(network, **size)
    seen = [tracker.see(rgb) for rgb in frames]
    changed = change(frames)
    chosen = chosen_things(find(tracker, seen[0], clicks_on(changed, rng)), changed, rng)
    size_hw = (size["height"], size["width"])
    starts = {key: at_size(found.logits, size_hw) for key, found in chosen.items()}
    if starts:
        forward = follow(tracker, seen, starts)
        ends = {key: at_size(logits[-1], size_hw) for key, logits in forward.items()}
        ends = {key: mask for key, mask in ends.items() if mask.any()}
        back = follow(Tracker(network, **size), seen[::-1], ends)
        backward = {key: logits[::-1] for key, logits in back.items()}
        window, names = agreement(forward, backward)
        pictures = [reduced(frames[i]) for i in window]
        both = {key: [(forward[key][i] + backward[key][i]) / np.float32(2) for i in window] for key in names}
        masks = {key: [at_size(logits, pictures[0].size[::-1]) for logits in both[key]] for key in names}
        write_sequence(out, name, pictures, masks)
        return f"{len(names)} of {len(starts)} things agree on {len(window)} frames"
    write_sequence(out, name, [], {})
    return "no thing to follow"


def change(frames: Sequence[NDArray[np.uint8]]) -> NDArray[np.float64]:
    """Return how much the first frame differs from those after it, `[h // 16, w // 16]`, in grey levels."""
    rows, columns = (side // CHANGE_PX for side in frames[0].shape[:2])
    first, *others = (
        rgb[: rows * CHANGE_PX, : columns * CHANGE_PX]
        .reshape(rows, CHANGE_PX, columns, CHANGE_PX, 3)
        .mean(axis=(1, 3, 4))
        for rgb in frames[:CHANGE_FRAMES]
    )
    differences = [np.abs(other - first) for other in others] or [np.zeros_like(first)]
    return np.asarray(np.mean(differences, axis=0))


def clicks_on(changed: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw clicks where a picture changes, `[n, 2]`: what moves is what a grid misses and a tracker should learn."""
    weights = changed.ravel() ** 2 + 1e-6
    cells = rng.choice(weights.size, min(CLICKS, weights.size), replace=False, p=weights / weights.sum())
    y, x = np.divmod(cells, changed.shape[1])
    return (np.stack((x, y), axis=1) + 0.5) * CHANGE_PX


def chosen_things(found: Sequence[Found], changed: NDArray[np.float64], rng: np.random.Generator) -> dict[str, Found]:
    """Draw some whole things and parts to follow, rather those that change.

    They are not tiny, not most of the frame, and not cut off at two borders.
    """
    fit = {name: one for name, one in named(found).items() if AREAS[0] <= one.area <= AREAS[1] and _borders(one) < 2}
    chosen: dict[str, Found] = {}
    for kind, most in (("whole", WHOLES), ("part", PARTS)):
        names = [name for name in fit if name.startswith(kind)]
        rank = {name: -rng.uniform(0.5, 1) * _change_of(fit[name], changed) for name in names}
        chosen |= {name: fit[name] for name in names if name in sorted(names, key=rank.__getitem__)[:most]}
    return chosen


def follow(
    tracker: Tracker, seen: Sequence[Features], starts: Mapping[str, NDArray[np.bool_]]
) -> dict[str, list[NDArray[np.float32]]]:
    """Follow masks of the first frame through frames that were seen, and return every object's logits on each."""
    logits: dict[str, list[NDArray[np.float32]]] = {}
    for name, mask in starts.items():
        memory = tracker.prompt(seen[0], Prompt(name, 0, mask=mask))
        assert memory is not None  # noqa: S101 - a mask is always answered
        logits[name] = [memory.low_resolution()]
    for i, features in enumerate(seen[1:], 1):
        for name, memory in zip(starts, tracker.step(i, features, list(starts)), strict=True):
            logits[name].append(memory.low_resolution())
    return logits


def agreement(forward: Masks, backward: Masks) -> tuple[range, tuple[str, ...]]:
    """Return the frames, following each other, and the objects that agree on all of them: as many masks as can be,
    and of as many rather more frames.

    Nothing is said of a frame on which an object's masks differ, and SA-V's layout knows only seen and not seen, so
    such a frame ends the window or costs the object. An object that both ways lose does not agree: it may be there.
    """
    agreeing = {
        name: [_agree(a > 0, b > 0) for a, b in zip(forward[name], backward[name], strict=True)] for name in backward
    }
    count = len(next(iter(agreeing.values()), ()))
    best, names = range(0), tuple[str, ...]()
    for start, stop in combinations(range(count + 1), 2):
        if stop - start < LEAST_FRAMES:
            continue
        good = tuple(name for name, agree in agreeing.items() if all(agree[start:stop]))
        if good and (len(good) * (stop - start), stop - start) > (len(names) * len(best), len(best)):
            best, names = range(start, stop), good
    return best, names


def write_true_masks(dataset: Path, out: Path) -> None:
    """Copy sequences with true masks at the training size, annotated frames only; what is there is kept."""
    for sequence in sequences(dataset):
        if is_made(out, sequence.name):
            continue
        paths = {path.stem: path for path in sequence.pictures.iterdir()}
        stems = list(sequence.frames().values())
        pictures, truths = [], []
        for stem in stems:
            rgb = np.asarray(read_allowed(paths[stem]))
            pictures.append(reduced(rgb))
            truths.append(sequence.truth(stem, size_hw=rgb.shape[:2]))
        nothing = np.zeros(pictures[0].size[::-1], bool)
        masks = {
            name: [_reduced_mask(truth[name]) if name in truth else nothing for truth in truths]
            for name in sorted({name for truth in truths for name in truth})
        }
        write_sequence(out, sequence.name, pictures, masks)


def _agree(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> bool:
    return bool(a.any() and b.any()) and region_similarity(a, b) >= AGREE


def _change_of(found: Found, changed: NDArray[np.float64]) -> float:
    """Return the mean change inside a mask."""
    share = Image.fromarray((found.logits > 0).astype(np.float32)).resize(changed.shape[::-1], Image.Resampling.BOX)
    weights = np.asarray(share, np.float64)
    return float((weights * changed).sum() / weights.sum())


def _borders(found: Found) -> int:
    """How many of the picture's four borders a mask touches."""
    mask = found.logits > 0
    return sum(bool(side.any()) for side in (mask[0], mask[-1], mask[:, 0], mask[:, -1]))


def _reduced_mask(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return np.asarray(reduced(mask.view(np.uint8) * np.uint8(255))) > 127
