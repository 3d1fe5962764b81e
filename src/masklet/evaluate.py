"""Any model on any dataset with true masks: J, F and J&F as the DAVIS benchmark counts them, and frames a second.

`metrics` says how a mask is compared and which frames count, `dataset` which folders are read.
"""

import io
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from masklet.dataset import Sequence, sequences
from masklet.errors import BadVideo
from masklet.files import atomic_write, make_folder
from masklet.masks import FrameMasks, box_of
from masklet.metrics import Fit, compare, counted, deepest
from masklet.model.network import Network
from masklet.render import assign_colours, render
from masklet.session import Progress, Session
from masklet.sheet import draw_sheet, draw_strip

PromptKind = Literal["click", "3-clicks", "box", "mask"]
Fits = dict[str, dict[int, Fit]]
"""For each object, each of its annotated frames."""

STRIP_FRAMES = 6
MOST_STRIPS = 6
"""So many of the worst sequences have a contact strip, and so many of the best."""


@dataclass(frozen=True)
class Score:
    """One object of one sequence, as means over its frames, 0..1."""

    sequence: str
    object: str
    j: float
    f: float
    rounds: tuple[float, ...]
    """J&F after each round of corrective clicks, the first being without."""

    @property
    def jf(self) -> float:
        return (self.j + self.f) / 2


@dataclass(frozen=True, eq=False)
class Measured:
    """One sequence of a report."""

    name: str
    scores: tuple[Score, ...]
    """One an object; none if the truth shows no object on a frame that counts."""
    frames: int = 0
    seconds: float = 0.0
    strip: Image.Image | None = None
    """A few of its frames side by side with masks, the truth outlined in white."""

    def mean(self, of: Callable[[Score], float]) -> float:
        return float(np.mean([of(score) for score in self.scores]))

    @property
    def jf(self) -> float:
        return self.mean(lambda score: score.jf)

    def __str__(self) -> str:
        if not self.scores:
            return f"{self.name}: left out, its masks show no object between the first and the last"
        return f"{self.name}: J&F {100 * self.jf:.1f}, {self.frames / self.seconds:.2f} frames/s"


@dataclass(frozen=True, eq=False)
class Report:
    """What came out, so far."""

    sequences: tuple[Measured, ...]
    complete: bool
    """Whether these are all sequences of the dataset."""

    def plus(self, measured: Measured, *, complete: bool) -> "Report":
        """Return a report with one sequence more, and strips of the worst and the best only."""
        report = Report((*self.sequences, measured), complete)
        ranked = [one for one in report.measured if one.strip is not None]
        if len(ranked) <= 2 * MOST_STRIPS:
            return report
        middle = ranked[MOST_STRIPS]
        return Report(tuple(replace(one, strip=None) if one is middle else one for one in report.sequences), complete)

    @property
    def measured(self) -> tuple[Measured, ...]:
        """The sequences that have scores, worst first."""
        return tuple(sorted((one for one in self.sequences if one.scores), key=lambda one: one.jf))

    @property
    def scores(self) -> tuple[Score, ...]:
        return tuple(score for one in self.sequences for score in one.scores)

    @property
    def frames_per_second(self) -> float:
        """Of decoding and tracking, in the first round."""
        return sum(one.frames for one in self.measured) / sum(one.seconds for one in self.measured)

    @property
    def rounds(self) -> tuple[float, ...]:
        """Mean J&F after each round."""
        return tuple(np.mean([score.rounds for score in self.scores], axis=0).tolist())

    def mean(self, of: Callable[[Score], float]) -> float:
        """Return the mean over all objects, as DAVIS 2017 has it."""
        return float(np.mean([of(score) for score in self.scores]))

    def table(self, model: str, prompt: str) -> str:
        """Return the scores as text, worst first; of several rounds the last, and J&F after each."""
        lines = [_row("", "J&F", "J", "F", "frames/s")]
        for one in self.measured:
            j, f = one.mean(lambda s: s.j), one.mean(lambda s: s.f)
            lines.append(_row(one.name, *_percent(one.jf, j, f), f"{one.frames / one.seconds:.2f}"))
            if len(one.scores) > 1:
                lines += [_row(f"  {s.object}", *_percent(s.jf, s.j, s.f), "") for s in one.scores]
        means = _percent(self.mean(lambda s: s.jf), self.mean(lambda s: s.j), self.mean(lambda s: s.f))
        lines.append(_row("mean of objects", *means, f"{self.frames_per_second:.2f}"))
        if len(self.rounds) > 1:
            lines.append("J&F by round: " + ", ".join(_percent(*self.rounds)))
        lines.append(f"{model}, prompt {prompt}, {len(self.scores)} objects in {len(self.measured)} sequences")
        return "\n".join(lines)


def evaluate(
    dataset: str | Path,
    network: Network,
    *,
    prompt: PromptKind = "mask",
    rounds: int = 0,
    report: Callable[[str], None] = lambda line: None,
) -> Report:
    """Do all of `evaluations`; `report` hears a line about each sequence."""
    so_far = Report((), complete=False)
    for so_far in evaluations(dataset, network, prompt=prompt, rounds=rounds):
        report(str(so_far.sequences[-1]))
    return so_far


def evaluations(
    dataset: str | Path,
    network: Network,
    *,
    prompt: PromptKind = "mask",
    rounds: int = 0,
    progress: Progress | None = None,
) -> Iterator[Report]:
    """Prompt each object where it is first seen, track forward, and compare every annotated frame with the truth.

    Yields the report so far after each sequence, so that whoever stops keeps it. `counted` says which frames count.
    `3-clicks` puts the second and third where the mask is most wrong. Each of `rounds` adds, for every object, such a
    click on its worst frame. Raises `BadVideo` for pictures and masks that cannot be compared.
    """
    report = Report((), complete=False)
    left = list(sequences(dataset))
    while left:
        measured = _Run(left.pop(0), network, prompt, progress).measure(rounds)
        report = report.plus(measured, complete=not left)
        if report.complete and not report.scores:
            raise BadVideo(
                f"{dataset}: no mask but the first and the last of a sequence shows an object, so none counts"
            )
        yield report


@dataclass(eq=False)
class _Run:
    """One sequence on its way."""

    sequence: Sequence
    network: Network
    prompt: PromptKind
    progress: Progress | None
    annotated: dict[int, str] = field(init=False)
    frames: int = 0
    seconds: float = 0.0

    def measure(self, rounds: int) -> Measured:
        self.annotated = self.sequence.frames()
        fits = self._blank_fits()
        if not any(counted(list(known.values())) for known in fits.values()):
            return Measured(self.sequence.name, ())
        with Session(self.sequence.pictures, self.network, keep_logits=not self.sequence.per_object) as session:
            self._start(session)
            history = [self._track(session, fits)]
            timed = self.frames, self.seconds
            for _ in range(rounds):
                self._correct(session, history[-1])
                history.append(self._track(session, fits))
            strip = self._strip(session)
        scores = tuple(self._scores(history))
        return Measured(self.sequence.name, scores, *timed, strip)

    def _truth(self, index: int) -> dict[str, NDArray[np.bool_]]:
        return self.sequence.truth(self.annotated[index])

    def _blank_fits(self) -> Fits:
        """Return each object's annotated frames, as if its mask were empty everywhere."""
        shown: dict[str, set[int]] = {}
        frames: dict[str, list[int]] = {}
        for index in self.annotated:
            for name, mask in self._truth(index).items():
                frames.setdefault(name, []).append(index)
                shown.setdefault(name, set())
                if mask.any():
                    shown[name].add(index)
        return {
            name: {
                index: _nothing(shown=index in shown[name])
                for index in (known if self.sequence.per_object else self.annotated)
            }
            for name, known in frames.items()
        }

    def _start(self, session: Session) -> None:
        """Prompt each object on the first annotated frame that shows it."""
        size = (session.video.height, session.video.width)
        for index in self.annotated:
            for name, mask in self.sequence.truth(self.annotated[index], size_hw=size).items():
                if mask.any() and name not in session.objects:
                    before = time.perf_counter()
                    self._say(session, name, index, mask)
                    self.seconds += time.perf_counter() - before

    def _say(self, session: Session, name: str, frame: int, truth: NDArray[np.bool_]) -> None:
        if self.prompt == "mask":
            session.add_mask(name, frame, truth)
        elif self.prompt == "box":
            box = box_of(truth)
            assert box is not None  # noqa: S101 - only objects that are seen are prompted
            session.add_box(name, frame, *(float(value) for value in box))
        else:
            for _ in range(3 if self.prompt == "3-clicks" else 1):
                mask = session.preview(frame)[name] if name in session.objects else np.zeros_like(truth)
                click_where_wrong(session, name, frame, mask, truth)

    def _track(self, session: Session, blank: Fits) -> Fits:
        """Track, and compare each object on each of its annotated frames."""
        fits = {name: dict(known) for name, known in blank.items()}
        before = time.perf_counter()
        for masks in session.track("forward", progress=self.progress):
            self.seconds += time.perf_counter() - before
            self.frames += 1
            if masks.frame in self.annotated:
                self._compare(masks, fits)
            before = time.perf_counter()
        return fits

    def _compare(self, masks: FrameMasks, fits: Fits) -> None:
        truth = self._truth(masks.frame)
        nothing = np.zeros(masks.masks.shape[1:], bool)
        for name, mask in self._answers(masks).items():
            if masks.frame in fits[name]:
                fits[name][masks.frame] = compare(mask, truth.get(name, nothing))

    def _answers(self, masks: FrameMasks) -> dict[str, NDArray[np.bool_]]:
        """Return masks by object, which overlap only where the truth may."""
        return dict(zip(masks.objects, masks.masks, strict=True)) if self.sequence.per_object else exclusive(masks)

    def _correct(self, session: Session, fits: Fits) -> None:
        """Click on each object where it is worst."""
        for name in session.objects:
            known = {index: fit for index, fit in fits[name].items() if fit.shown or fit.answered}
            frame = min(known, key=lambda index: known[index].j)
            mask = self._answers(session.preview(frame))[name]
            truth = self._truth(frame).get(name, np.zeros_like(mask))
            click_where_wrong(session, name, frame, mask, truth)

    def _scores(self, history: list[Fits]) -> Iterator[Score]:
        for name in history[-1]:
            rounds = [counted(list(fits[name].values())) for fits in history]
            if rounds[-1]:
                jfs = tuple(float(np.mean([fit.jf for fit in one])) for one in rounds)
                j, f = (float(np.mean(values)) for values in zip(*((fit.j, fit.f) for fit in rounds[-1]), strict=True))
                yield Score(self.sequence.name, name, j, f, jfs)

    def _strip(self, session: Session) -> Image.Image:
        """Draw some annotated frames, evenly spaced from the first to the last."""
        indices, colours = list(self.annotated), assign_colours(session.objects)
        places = np.linspace(0, len(indices) - 1, min(STRIP_FRAMES, len(indices))).round()
        pictures = []
        for index in (indices[int(place)] for place in places):
            [frame] = session.video.frames_at([index])
            drawn = render(frame.rgb, session.preview(index), colours=colours, mask_type="highlighted")
            pictures.append((f"frame {index}", drawn, list(self._truth(index).values())))
        return draw_strip(pictures)


def _nothing(*, shown: bool) -> Fit:
    """Say how an empty mask fits."""
    return Fit(j=float(not shown), f=float(not shown), shown=shown, answered=False)


def exclusive(masks: FrameMasks) -> dict[str, NDArray[np.bool_]]:
    """Return masks that do not overlap, as true ones do not: a pixel goes to the object with the highest logit."""
    if masks.logits is None or not masks.objects:
        raise ValueError("give masks with logits")
    owner = masks.logits.argmax(axis=0)
    return {name: masks.masks[row] & (owner == row) for row, name in enumerate(masks.objects)}


def click_where_wrong(
    session: Session, name: str, frame: int, mask: NDArray[np.bool_], truth: NDArray[np.bool_]
) -> None:
    """Click into the middle of what is missing, or, negative, of what is too much, whichever is larger."""
    missing, wrong = truth & ~mask, mask & ~truth
    positive = np.count_nonzero(missing) >= np.count_nonzero(wrong)
    error = missing if positive else wrong
    if error.any():
        session.add_click(name, frame, *deepest(error), positive=bool(positive))


def summary(report: Report, *, name: str, prompt: str) -> dict[str, object]:
    """Return a report as JSON can hold it; shares, not percent."""
    means = {"jf": lambda s: s.jf, "j": lambda s: s.j, "f": lambda s: s.f}
    return {
        "model": name,
        "prompt": prompt,
        "complete": report.complete,
        "mean": {key: report.mean(of) for key, of in means.items()} if report.scores else None,
        "rounds": report.rounds if report.scores else None,
        "frames_per_second": report.frames_per_second if report.scores else None,
        "sequences": [
            {"sequence": one.name, **{key: one.mean(of) for key, of in means.items()}}
            | {"frames_per_second": one.frames / one.seconds}
            for one in report.measured
        ],
        "left_out": [one.name for one in report.sequences if not one.scores],
        "scores": [asdict(score) | {"jf": score.jf} for score in report.scores],
    }


def save(report: Report, out: str | Path, *, name: str, prompt: str) -> None:
    """Write `scores.json`, and `sheet.png`: strips of the worst sequences and of the best, worst on top."""
    out = Path(out)
    make_folder(out)
    with atomic_write(out / "scores.json") as draft:
        draft.write(json.dumps(summary(report, name=name, prompt=prompt), indent=1).encode())
    strips = [(f"{one.name}   J&F {100 * one.jf:.1f}", one.strip) for one in report.measured if one.strip is not None]
    if strips:
        held = io.BytesIO()
        draw_sheet(strips).save(held, "PNG")
        with atomic_write(out / "sheet.png") as draft:
            draft.write(held.getvalue())


def _percent(*shares: float) -> tuple[str, ...]:
    return tuple(f"{100 * share:.1f}" for share in shares)


def _row(name: str, *values: str) -> str:
    return f"{name:<32}" + "".join(f"{value:>9}" for value in values)
