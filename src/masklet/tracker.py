"""Objects through a video, one frame at a time: prompts and features in, masks out. Holds memories, never frames."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from masklet.answers import chosen, put
from masklet.errors import BadPrompt
from masklet.inputs import Geometry, boxes_around, dense, input_mask, points_of
from masklet.memory import MAP_DTYPE, Memory, MemoryBank, reach_of
from masklet.model.holes import fill_holes
from masklet.model.layers import resize
from masklet.model.matching import Sighting, recognised
from masklet.model.network import (
    ABSENT,
    CERTAIN,
    Decoded,
    Features,
    Network,
    Points,
    Recollection,
    normalise,
)
from masklet.model.prompt_encoder import PADDING
from masklet.model.target_model import hinted, sharpened
from masklet.prompts import Prompt

AT_ONCE = 16
"""Objects in a batch: of a SAM 2 each takes 70 MB."""


@dataclass(eq=False)
class _Track:
    bank: MemoryBank
    waiting: dict[int, Prompt] = field(default_factory=dict)
    """Corrections of frames that tracking has not reached."""
    given: dict[int, NDArray[np.bool_]] = field(default_factory=dict)
    """Masks that a person gave, returned as they are."""
    fresh: dict[int, tuple[Memory, bool]] = field(default_factory=dict)
    """Official rules only: answers that become memories when the next pass starts; True: of a frame tracked before."""

    def known(self, frame: int) -> Memory | None:
        """Return the latest answer on a frame."""
        return self.fresh[frame][0] if frame in self.fresh else self.bank.at(frame)

    def settle(self) -> None:
        """Make fresh answers memories. Officially those of frames tracked before are dropped, or soon overwritten."""
        for frame, (memory, was_tracked) in self.fresh.items():
            if not was_tracked or frame not in self.bank.prompted:
                self.bank.keep(memory, prompted=not was_tracked)
        self.fresh.clear()


class Tracker:
    """Tracks any number of objects through one video or stream.

    A frame is seen once (`see`), prompted (`prompt`) or tracked (`step`) with what was seen, and drawn (`masks`).
    `frame_count` None means a stream; `official` keeps every rule of Meta's predictor, for comparison.
    """

    def __init__(
        self, network: Network, *, height: int, width: int, frame_count: int | None = None, official: bool = False
    ) -> None:
        self.network = network
        self.geometry = Geometry.of(network, height=height, width=width)
        self.reach = reach_of(frame_count)
        self.official = official
        self._tracks: dict[str, _Track] = {}

    @property
    def objects(self) -> tuple[str, ...]:
        """Names in the order of their first prompt."""
        return tuple(self._tracks)

    def bank(self, name: str) -> MemoryBank:
        """Return an object's memories."""
        return self._tracks[name].bank

    def conditioning(self, name: str) -> list[int]:
        """Return the frames whose answers condition an object's other frames, or will when the next pass starts."""
        track = self._tracks[name]
        fresh = {frame for frame, (_, was_tracked) in track.fresh.items() if not was_tracked}
        return sorted(fresh.union(track.bank.prompted))

    @torch.inference_mode()
    def see(self, rgb: NDArray[np.uint8]) -> Features:
        """Encode a picture `[h, w, 3]` of the source's size."""
        if rgb.shape[:2] != (self.geometry.height, self.geometry.width):
            size = f"{self.geometry.width}x{self.geometry.height}"
            raise BadPrompt(f"a frame is {rgb.shape[1]}x{rgb.shape[0]}, but this tracker was made for {size}")
        pixels = torch.from_numpy(rgb).to(self.network.device)
        return self.network.see(normalise(pixels, size_hw=self.geometry.input_hw))

    @torch.inference_mode()
    def prompt(
        self,
        features: Features,
        prompt: Prompt,
        *,
        reverse: bool | None = None,
        before: NDArray[np.float32] | None = None,
    ) -> Memory | None:
        """Answer a prompt on its frame; from now on it conditions every other frame of the object.

        `reverse` says in which direction the frame was tracked before, if it was: then memory takes part. The earlier
        logits of the frame, those still known or else `before`, are a prompt too. A correction of a frame that has
        no mask yet waits until `step` gets there, and None is returned.
        """
        track = self._tracks.setdefault(prompt.object, _Track(MemoryBank(unbounded=self.official)))
        known = track.known(prompt.frame)
        if known is not None and known.logits is not None:
            before = known.low_resolution()
        if prompt.is_correction and before is None and not self.official:
            track.waiting[prompt.frame] = prompt
            return None
        track.given.pop(prompt.frame, None)
        if prompt.mask is not None:
            decoded = self.network.adopt(features, input_mask(self.network, self.geometry, prompt.mask))
            track.given[prompt.frame] = prompt.mask
        else:
            image = self._condition(features, track, prompt.frame, reverse)
            decoded = self._ask(features, image, prompt, before, amends=reverse is not None)
        memory = memories_of(self.network, features, decoded, prompt.frame, prompted=True)[0]
        if self.official:
            track.fresh[prompt.frame] = (memory, reverse is not None)
        else:  # Differs: a correction of a tracked frame conditions the others too.
            track.bank.keep(memory, prompted=True)
        return memory

    @torch.inference_mode()
    def step(self, frame: int, features: Features, objects: Sequence[str], *, reverse: bool = False) -> list[Memory]:
        """Track objects on one frame, `AT_ONCE` in a batch; those prompted on it keep their answer."""
        tracks = [self._tracks[name] for name in objects]
        for track in tracks:
            track.settle()
            track.bank.arrive(frame, reverse=reverse)
        known = [track.bank.prompted.get(frame) for track in tracks]
        todo = [track for track, memory in zip(tracks, known, strict=True) if memory is None]
        groups = [todo[at : at + AT_ONCE] for at in range(0, len(todo), AT_ONCE)]
        new = iter([memory for group in groups for memory in self._track(frame, features, group, reverse)])
        return [memory or next(new) for memory in known]

    @torch.inference_mode()
    def masks(self, frame: int, memories: Mapping[str, Memory]) -> NDArray[np.bool_]:
        """Return the masks of answers that still have their logits, `[n, h, w]`, source size."""
        size_hw = (self.geometry.height, self.geometry.width)
        masks = np.zeros((len(memories), *size_hw), bool)
        for mask, (name, memory) in zip(masks, memories.items(), strict=True):
            given = self._tracks[name].given.get(frame)
            # Differs: a person's own mask comes back as it was given, not as the network would draw it.
            exact = given is not None and not self.official
            mask[:] = given if exact else self.enlarge(memory.low_resolution()) > 0
        return masks

    @torch.inference_mode()
    def enlarge(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Bring logits `[4h, 4w]` to the source's size, `[h, w]`."""
        full = resize(torch.from_numpy(logits)[None, None], (self.geometry.height, self.geometry.width))
        return full[0, 0].numpy()

    def withdraw(self, name: str, frame: int) -> None:
        """Forget the prompt of an object on a frame."""
        track = self._tracks[name]
        track.bank.withdraw(frame)
        track.fresh.pop(frame, None)
        track.waiting.pop(frame, None)
        track.given.pop(frame, None)

    def remove(self, name: str) -> None:
        """Forget an object and all its memory; the others do not notice."""
        self._tracks.pop(name, None)

    def _track(self, frame: int, features: Features, tracks: list[_Track], reverse: bool) -> list[Memory]:
        recollections = [t.bank.recollect(frame, reverse=reverse, reach=self.reach) for t in tracks]
        image = self.network.recall(features, recollections)
        points, carried = propagated(self.network, features, recollections)
        answers = self.network.answer(image, features.fine, points, with_hints(carried, features, recollections))
        decoded = self.network.choose(answers, ambiguous=points is None, carried=carried)
        decoded = lost_where_nowhere(decoded, points)
        memories = memories_of(self.network, features, decoded, frame, carried=carried, prompted=False)
        memories = hidden_where_unlike(memories, recollections)
        memories = with_sharp_edges(memories, features, recollections)
        for i, track in enumerate(tracks):
            correction = track.waiting.pop(frame, None)
            if correction is not None:
                again = self._ask(features, image[i : i + 1], correction, memories[i].low_resolution(), amends=True)
                memories[i] = memories_of(self.network, features, again, frame, prompted=True)[0]
            track.bank.keep(memories[i], prompted=correction is not None)
        return memories

    def _condition(self, features: Features, track: _Track, frame: int, reverse: bool | None) -> Tensor:
        """A frame that was not tracked before is answered without memory, as if it were a picture."""
        if reverse is None:
            return self.network.recall(features, [Recollection((), (), self.reach)])
        return self.network.recall(features, [track.bank.recollect(frame, reverse=reverse, reach=self.reach)])

    def _ask(
        self, features: Features, image: Tensor, prompt: Prompt, before: NDArray[np.float32] | None, *, amends: bool
    ) -> Decoded:
        """Answer clicks or a box on a conditioned picture; `before` are the frame's earlier logits, `[4h, 4w]`.

        `amends`: they were tracked, and clicks change only a piece of them.
        """
        points, earlier = points_of(self.network, self.geometry, prompt), self._dense(before)
        points = put(self.network, features, image, points, earlier, amends=amends)
        answers = self.network.answer(image, features.fine, points, earlier)
        kept = earlier if amends and prompt.box is None else None
        return chosen(self.network, features, image, points, answers, kept)

    def _dense(self, logits: NDArray[np.float32] | None) -> Tensor | None:
        """Turn earlier logits into a dense prompt."""
        return None if logits is None else dense(torch.from_numpy(logits).to(self.network.device)[None, None])


def propagated(
    network: Network, features: Features, recollections: Sequence[Recollection]
) -> tuple[Points | None, Tensor | None]:
    """Make nano's prompt of a frame that nobody prompted: where each object should be, as a box and as logits."""
    if not network.config.is_nano:
        return None, None
    logits = network.carry(features, recollections)
    return boxes_around(logits), logits


def with_hints(carried: Tensor | None, features: Features, recollections: Sequence[Recollection]) -> Tensor | None:
    """Tell the decoder where each object should be and, around there, what its model thinks of each cell."""
    if carried is None:
        return None
    hints = [hinted(logits, features.early, known.target) for logits, known in zip(carried, recollections, strict=True)]
    return torch.stack(hints)


def lost_where_nowhere(decoded: Decoded, points: Points | None) -> Decoded:
    """Call an object absent where nothing says where to look for it, whatever the decoder says."""
    if points is None:
        return decoded
    nowhere = (points.labels == PADDING).all(dim=1)
    logits = torch.where(nowhere[:, None, None, None], ABSENT, decoded.logits)
    return replace(decoded, logits=logits, scores=torch.where(nowhere, -CERTAIN, decoded.scores))


def hidden_where_unlike(memories: list[Memory], recollections: Sequence[Recollection]) -> list[Memory]:
    """Call an object absent where nano found something else."""
    return [
        memory if memory.sighting is None or recognised(memory.sighting, known.sightings) else memory.hidden()
        for memory, known in zip(memories, recollections, strict=True)
    ]


def with_sharp_edges(memories: list[Memory], features: Features, recollections: Sequence[Recollection]) -> list[Memory]:
    """Put the edges of what is shown where each object's model has them, if it has one.

    What is followed, the sighting, stays as it is: an edge that moved to the wrong place is not where to look next.
    """
    return [
        memory
        if memory.logits is None
        else replace(memory, logits=sharpened(memory.logits, features.early, known.target))
        for memory, known in zip(memories, recollections, strict=True)
    ]


def memories_of(
    network: Network,
    features: Features,
    decoded: Decoded,
    frame: int,
    *,
    prompted: bool,
    carried: Tensor | None = None,
) -> list[Memory]:
    """Make what is kept of a frame, one for each object; `carried` are the logits that were a tracked frame's prompt.

    Prompted frames are remembered as the person saw them, holes filled and binarised; tracked ones raw.
    """
    filled = fill_holes(decoded.logits)
    sightings: Sequence[Sighting | None] = [None] * len(filled)
    if network.config.is_nano:
        sightings = network.sight(features, filled, decoded.scores, carried)
    maps: Sequence[Tensor | None] = [None] * len(filled)
    if network.config.remembers:
        source = filled if prompted else decoded.logits
        maps = network.remember(features, source, decoded.scores, prompted=prompted).to(MAP_DTYPE).unbind()
    scores, ious = decoded.scores.tolist(), decoded.ious.tolist()
    return [
        Memory(frame, *answer) for answer in zip(filled, scores, ious, decoded.pointers, maps, sightings, strict=True)
    ]
