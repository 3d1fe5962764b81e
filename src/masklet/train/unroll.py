"""A clip through the network by the tracker's own rules, with gradients.

What is remembered, recalled and propagated is decided by the same functions as in `masklet.tracker`; with gradients off
the answers are the tracker's to 1e-3, which a test holds. Gradients flow through memories; propagated prompts, earlier
logits and corrective clicks carry none.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from masklet.answers import asked_again, chosen, put
from masklet.inputs import Geometry, dense, input_mask, points_of
from masklet.memory import Memory, MemoryBank, reach_of
from masklet.model.mask_decoder import Answers
from masklet.model.network import Decoded, Features, Network, Points, Recollection, normalise, with_evidence
from masklet.prompts import Prompt
from masklet.tracker import (
    hidden_where_unlike,
    lost_where_nowhere,
    memories_of,
    propagated,
    with_hints,
    with_sharp_edges,
)
from masklet.train.clips import Clip
from masklet.train.losses import FOCAL, SUMMED_FOCAL, Judged, Truth, Verdict, judge
from masklet.train.prompting import Person, shrunk

LONG = reach_of(None)
"""Object pointers are timed as in a long video, whatever the length of the clip."""


@dataclass(frozen=True, eq=False)
class Step:
    """What came of one question to the decoder: some objects, one frame."""

    frame: int
    rows: tuple[int, ...]
    asked: str
    """`click`, `grow`, `box`, `track` or `correct`."""
    verdict: Verdict
    overlaps: Tensor
    """`[b]`, intersection over union of each chosen mask with the truth."""


@dataclass(eq=False)
class Unrolled:
    """A clip's answers as they came."""

    steps: list[Step] = field(default_factory=list)
    prompts: list[tuple[Prompt, ...]] = field(default_factory=list)
    """What the person said, in the order of saying, one tuple for each round."""
    memories: list[list[Memory]] = field(default_factory=list)
    """For each frame and object, what was kept."""


def unroll(network: Network, clip: Clip, person: Person, *, start: int = 0) -> Unrolled:
    """Prompt every object on the first frame, track them through the clip, let the person correct.

    `start` frames are taken to lie between the first frame and the second, as if tracking began far from the prompt.
    """
    run = _Run(network, clip, person)
    for i in range(len(clip.frames)):
        run.see(i)
        if i == 0:
            run.begin()
        else:
            run.track(i + start)
        for _ in range(person.rounds[i]):
            run.correct()
        run.out.memories.append(run.now)
    return run.out


class _Run:
    """One clip on its way."""

    def __init__(self, network: Network, clip: Clip, person: Person) -> None:
        height, width = clip.frames.shape[1:3]
        self.network, self.clip, self.person = network, clip, person
        self.focal = SUMMED_FOCAL if network.config.is_nano else FOCAL
        self.geometry = Geometry.of(network, height=height, width=width)
        self.banks = [MemoryBank() for _ in range(clip.masks.shape[1])]
        self.rows = tuple(range(len(self.banks)))
        self.out = Unrolled()
        self.now: list[Memory] = []
        self.at, self.frame = 0, 0
        """Index in the clip, and the number that memories are kept by."""

    def see(self, i: int) -> None:
        """Encode a frame, and look up the truth at the logits' size."""
        self.at = i
        pixels = torch.from_numpy(np.ascontiguousarray(self.clip.frames[i])).to(self.network.device)
        self.features: Features = self.network.see(normalise(pixels, size_hw=self.geometry.input_hw))
        height, width = (n // 4 for n in self.geometry.input_hw)
        masks = self.clip.masks[i]
        cells = torch.from_numpy(shrunk(masks, (height, width))).to(self.network.device).float()
        self.truth = Truth(cells, torch.from_numpy(masks.any(axis=(1, 2))).to(self.network.device))

    def begin(self) -> None:
        """Prompt every object."""
        self.frame = 0
        prompts = [self.person.start(row) for row in self.rows]
        self.out.prompts.append(tuple(prompts))
        self.image = self.network.recall(self.features, [Recollection((), (), LONG)] * len(self.rows))
        self.now = [None] * len(self.rows)  # type: ignore[list-item]
        given = [row for row in self.rows if prompts[row].mask is not None]
        if given:
            masks = [_mask_of(prompts[row]) for row in given]
            tensors = torch.cat([input_mask(self.network, self.geometry, mask) for mask in masks])
            # What the person drew is the answer, and nothing is left to judge, as in the official training.
            self._remember(given, self.network.adopt(self.features, tensors))
        points = {row: points_of(self.network, self.geometry, prompts[row]) for row in self.rows}
        for rows in _alike({row: points[row] for row in self.rows if row not in given}):
            asked = self.person.kinds[rows[0]]
            self._ask(rows, _batch([points[row] for row in rows]), None, asked=asked)

    def track(self, frame: int) -> None:
        """Follow every object, all in one batch."""
        self.frame = frame
        for bank in self.banks:
            bank.arrive(frame, reverse=False)
        recollections = [bank.recollect(frame, reverse=False, reach=LONG) for bank in self.banks]
        self.image = self.network.recall(self.features, recollections)
        with torch.no_grad(), torch.autocast(self.network.device.type, enabled=False):
            points, carried = propagated(self.network, self.features, recollections)
        hints = with_hints(carried, self.features, recollections)
        answers = self.network.answer(self.image, self.features.fine, points, hints)
        decoded = lost_where_nowhere(self.network.choose(answers, ambiguous=points is None, carried=carried), points)
        rows = self._within_reach(points)
        if rows:
            shown = with_evidence(answers, carried)
            self._judge(rows, _some(shown, rows), decoded.logits[rows], "three" if points is None else "all", "track")
        memories = memories_of(self.network, self.features, decoded, frame, prompted=False, carried=carried)
        memories = hidden_where_unlike(memories, recollections)
        self.now = with_sharp_edges(memories, self.features, recollections)
        for bank, memory in zip(self.banks, self.now, strict=True):
            bank.keep(memory, prompted=False)

    def correct(self) -> None:
        """Let the person click on what is wrong with each object."""
        found = {row: (_logits(self.now[row])[0] > 0).numpy(force=True) for row in self.rows}
        prompts = {row: self.person.correct(self.at, row, found[row]) for row in self.rows}
        said = {row: prompt for row, prompt in prompts.items() if prompt is not None}
        if not said:
            return
        self.out.prompts.append(tuple(said.values()))
        earlier = {row: dense(_logits(self.now[row]))[None] for row in said}
        points = {row: self._put(row, prompt, earlier[row]) for row, prompt in said.items()}
        for rows in _alike(points):
            logits = torch.cat([earlier[row] for row in rows])
            self._ask(rows, _batch([points[row] for row in rows]), logits, asked="correct")

    def _put(self, row: int, prompt: Prompt, earlier: Tensor) -> Points:
        points = points_of(self.network, self.geometry, prompt)
        image = self.image[row : row + 1]
        return put(self.network, self.features, image, points, earlier, amends=self.at > 0)

    def _within_reach(self, points: Points | None) -> list[int]:
        """Return the rows whose answer the network can know.

        An object that came back elsewhere is known by memory or not at all: without one, its frame teaches nothing.
        """
        if points is None or self.network.config.remembers:
            return list(self.rows)
        within = []
        for row, (low, high) in enumerate((points.xy / 4).round().int().tolist()):
            mask = self.truth.masks[row]
            if not mask.any() or mask[low[1] : high[1], low[0] : high[0]].any():
                within.append(row)
        return within

    def _ask(self, rows: Sequence[int], points: Points, logits: Tensor | None, *, asked: str) -> None:
        """Put prompts of one shape to the decoder; their frame conditions the others from now on."""
        image = self.image[list(rows)]
        answers = self.network.answer(image, self.features.fine, points, logits)
        kept = logits if self.at and asked == "correct" else None
        decoded = chosen(self.network, self.features, image, points, answers, kept)
        again = points.ambiguous and self.network.config.is_nano
        self._judge(rows, answers, decoded.logits, "rated" if again else "three" if points.ambiguous else "one", asked)
        if again:
            self._ask_again(rows, image, points, answers)
        self._remember(rows, decoded)

    def _ask_again(self, rows: Sequence[int], image: Tensor, points: Points, answers: Answers) -> None:
        """Judge what nano's decoder makes of a box around what one click found: the whole thing, and its rating."""
        found = self.network.choose(answers, ambiguous=True)
        wider = asked_again(self.network, image, points, found)
        self._judge(rows, wider, wider.logits[:, :1], "one", "grow")

    def _remember(self, rows: Sequence[int], decoded: Decoded) -> None:
        kept = memories_of(self.network, self.features, decoded, self.frame, prompted=True)
        for row, memory in zip(rows, kept, strict=True):
            self.now[row] = memory
            self.banks[row].keep(memory, prompted=True)

    def _judge(self, rows: Sequence[int], answers: Answers, logits: Tensor, judged: Judged, asked: str) -> None:
        """Compare the answers of some rows, and the masks that were chosen of them, with the truth."""
        truth = Truth(self.truth.masks[list(rows)], self.truth.present[list(rows)])
        with torch.autocast(self.network.device.type, enabled=False):
            verdict = judge(answers, truth, judged, weight=self.focal)
            real = truth.masks > 0
            mask = logits[:, 0] > 0
            shared, either = ((x.flatten(1).sum(1)) for x in (mask & real, mask | real))
        overlaps = torch.where(either > 0, shared / either.clamp(min=1), 1.0)
        self.out.steps.append(Step(self.at, tuple(rows), asked, verdict, overlaps.detach()))


def _logits(memory: Memory) -> Tensor:
    assert memory.logits is not None  # noqa: S101 - the latest answers still have theirs
    return memory.logits.detach()


def _mask_of(prompt: Prompt) -> NDArray[np.bool_]:
    assert prompt.mask is not None  # noqa: S101
    return prompt.mask


def _alike(points: dict[int, Points]) -> Iterator[list[int]]:
    """Yield rows whose prompts have the same number of points: the decoder reads a padded prompt differently."""
    for count in sorted({p.labels.shape[1] for p in points.values()}):
        yield [row for row, p in points.items() if p.labels.shape[1] == count]


def _some(answers: Answers, rows: list[int]) -> Answers:
    return Answers(answers.logits[rows], answers.ious[rows], answers.tokens[rows], answers.scores[rows])


def _batch(points: Sequence[Points]) -> Points:
    return Points(torch.cat([p.xy for p in points]), torch.cat([p.labels for p in points]))
