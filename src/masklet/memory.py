"""What is kept of one object: every prompted frame, and the few frames before that attention can reach.

Bounded by distance in frames, never by count: the reference chooses memories by frame index and leaves a slot empty
where a prompted frame lies inside the window, so a list of the last six would choose others.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from masklet.model.matching import ANYWHERE, EMPTY, LAST_TRUST, RECENT, Sighting, recognised
from masklet.model.network import ABSENT, CERTAIN, MAPS, POINTERS, Recollection

MAP_DTYPE = torch.bfloat16
"""The official predictor stores memory maps so, whatever the network computes in."""
PROMPTED_SLOT = MAPS - 1


@dataclass(frozen=True, eq=False)
class Memory:
    """One object on one frame, as the network answered."""

    frame: int
    logits: Tensor | None
    """`[1, 4h, 4w]`, holes filled; dropped once the next frame is done."""
    score: float
    iou: float
    pointer: Tensor
    """`[256]`."""
    map: Tensor | None
    """`[64, h, w]`; dropped when out of attention's reach, None where the model has no memory."""
    sighting: Sighting | None = None
    """What nano looks for; dropped when out of its reach, None for the others."""

    def low_resolution(self) -> NDArray[np.float32]:
        """Return the logits `[4h, 4w]`, which only the latest frame of a pass and prompted frames still have."""
        if self.logits is None:
            raise LookupError(f"the logits of frame {self.frame} were let go")
        return self.logits[0].float().cpu().numpy()

    def hidden(self) -> "Memory":
        """Return the same as an absent object's."""
        logits = None if self.logits is None else torch.full_like(self.logits, ABSENT)
        sighting = None if self.sighting is None else self.sighting.without()
        return replace(self, logits=logits, score=-CERTAIN, sighting=sighting)


@dataclass(eq=False)
class MemoryBank:
    """The memories of one object. `unbounded` keeps everything, as the official predictor does."""

    unbounded: bool = False
    prompted: dict[int, Memory] = field(default_factory=dict)
    recent: dict[int, Memory] = field(default_factory=dict)
    seen: dict[int, Sighting] = field(default_factory=dict)
    """The frames of the pass on which nano last found it; they may be long ago."""
    _cursor: tuple[int, bool] | None = None
    """Frame and direction of the pass under way."""

    def arrive(self, frame: int, *, reverse: bool) -> None:
        """Come to a frame: unless that continues the pass under way, a new one starts from the prompted frames."""
        step = 1 if reverse else -1
        behind = frame + step
        # A pass may step over prompted frames, as their answers stand, or on them.
        while behind in self.prompted and self._cursor != (behind, reverse):
            behind += step
        if self._cursor != (behind, reverse) and not self.unbounded:
            self.recent.clear()
            self.seen.clear()
        self._cursor = (frame, reverse)

    def stands_behind(self, frames: range, *, reverse: bool) -> bool:
        """Whether the pass under way comes to these frames next."""
        return self._cursor == ((frames[-1] + 1, True) if reverse else (frames[0] - 1, False))

    def forget(self, frames: range) -> None:
        """Do not continue a pass that stands on one of these frames: what it saw there is stale."""
        if self._cursor is not None and self._cursor[0] in frames:
            self._cursor = None

    def keep(self, memory: Memory, *, prompted: bool) -> None:
        """Store a memory, and let go of those which no later frame of the pass can reach."""
        if prompted:
            self.prompted[memory.frame] = memory
            self.recent.pop(memory.frame, None)
            self.seen.pop(memory.frame, None)
            return
        self.recent[memory.frame] = memory
        if memory.sighting is not None and memory.score > 0:
            self.seen[memory.frame] = memory.sighting
            for frame in list(self.seen)[:-RECENT]:
                del self.seen[frame]
        if not self.unbounded:
            self.recent = {f: _slim(m, abs(memory.frame - f)) for f, m in self.recent.items() if _near(f, memory.frame)}

    def withdraw(self, frame: int) -> None:
        """Let a frame condition nothing more. By the official rules its answer stays, as that of a tracked frame."""
        memory = self.prompted.pop(frame, None)
        if memory is not None and self.unbounded:
            self.recent[frame] = memory

    def at(self, frame: int) -> Memory | None:
        """Return what is known of a frame, prompted first."""
        return self.prompted.get(frame) or self.recent.get(frame)

    def recollect(self, frame: int, *, reverse: bool, reach: int) -> Recollection:
        """Choose what a frame attends to (`sam2_base.py`, `_prepare_memory_conditioned_features`).

        Maps of all prompted frames, past and future, then of the six frames just passed; pointers of the prompted
        frames already passed, then of the frames just passed.
        """
        sign = -1 if reverse else 1
        maps = [(m.map, PROMPTED_SLOT) for m in self.prompted.values() if m.map is not None]
        pointers = [(m.pointer, sign * (frame - f)) for f, m in self.prompted.items() if sign * (frame - f) >= 0]
        for distance in range(MAPS - 1, 0, -1):
            memory = self.recent.get(frame - sign * distance)
            if memory is not None and memory.map is not None:
                maps.append((memory.map, distance - 1))
        for distance in range(1, reach + 1):
            memory = self.recent.get(frame - sign * distance)
            if memory is not None:
                pointers.append((memory.pointer, distance))
        return Recollection(maps, pointers, reach, self._sightings(frame, sign))

    def _said(self, frame: int, sign: int) -> list[int]:
        """Return the prompted frame last passed, if none was the nearest one, and that to come if it shows the same.

        Where a person said that the object is gone there is nothing to look for.
        """
        shown = [said for said, memory in self.prompted.items() if memory.score > 0]
        last, *others = sorted(shown or self.prompted, key=_order(frame, sign))
        if sign * (frame - last) < 0:
            return [last]
        coming = next((said for said in others if sign * (frame - said) < 0), None)
        return [last] if coming is None or not self._agree(coming, last) else [last, coming]

    def _agree(self, coming: int, last: int) -> bool:
        one, other = self.prompted[coming].sighting, self.prompted[last].sighting
        return one is not None and other is not None and recognised(one, [(other, abs(coming - last))])

    def _sightings(self, frame: int, sign: int) -> list[tuple[Sighting, int]]:
        """Choose what nano compares a frame with: the prompted frames around it, a few on which it was last present.

        A prompt may contradict others and what was tracked before it: of these, nothing is taken, and of the one to
        come only if it shows what looks like the same thing. Of an object that is gone nobody knows where it will come
        back: it is looked for anywhere, but not in what was there without it on the last few frames.
        """
        if not self.prompted:
            return []
        said = self._said(frame, sign)
        since = _since(min(self.prompted, key=_order(frame, sign)), frame, sign)
        passed = [self.at(frame - sign * distance) for distance in range(1, EMPTY + 1)]
        empty = [m for m in passed if m is not None and m.score <= 0 and (since(m.frame) or m.frame in self.prompted)]
        seen = [(self.prompted[last].sighting, abs(frame - last)) for last in said]
        seen += [(self.seen[found], abs(frame - found)) for found in reversed(self.seen) if since(found)]
        if empty and abs(frame - empty[0].frame) == 1:
            seen = [(_trusted(sighting), max(ANYWHERE, distance)) for sighting, distance in seen]
        seen += [(memory.sighting, abs(frame - memory.frame)) for memory in empty]
        return [(sighting, distance) for sighting, distance in seen if sighting is not None]


def reach_of(frame_count: int | None) -> int:
    """How far back pointers go. The official code divides by zero for a single frame; a stream counts as long."""
    return max(1, min(frame_count or POINTERS, POINTERS) - 1)


def _order(frame: int, sign: int) -> Callable[[int], tuple[bool, int]]:
    """Sort frames: those that a pass came to before, nearest first, then those to come."""
    return lambda other: (sign * (frame - other) < 0, abs(frame - other))


def _since(last: int, frame: int, sign: int) -> Callable[[int], bool]:
    """Tell of frames whether a pass came to them before `frame`, and after it passed a prompt on `last`, if it did."""
    start = last if sign * (frame - last) > 0 else -sign * math.inf
    return lambda passed: sign * start < sign * passed < sign * frame


def _trusted(sighting: Sighting | None) -> Sighting | None:
    """Return what is known of a lost object: what a person said of it, if it is that, outweighs the rest."""
    if sighting is None or not sighting.trust:
        return sighting
    return replace(sighting, trust=LAST_TRUST)


def _near(frame: int, now: int) -> bool:
    return abs(now - frame) < POINTERS - 1


def _slim(memory: Memory, age: int) -> Memory:
    if age == 0:
        return memory
    # A correction of the frame itself reaches as far back as its tracking did.
    kept = memory.map if age < MAPS else None
    return replace(memory, logits=None, map=kept, sighting=memory.sighting if age <= EMPTY else None)
