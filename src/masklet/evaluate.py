"""Any model on any dataset with true masks: J, F and J&F as the DAVIS benchmark counts them, and frames a second.

Reads the folder layouts of DAVIS 2016 and 2017, MOSE (`JPEGImages/SEQUENCE`, `Annotations/SEQUENCE/FRAME.png`, a
palette index for each object, or 0 and 255) and SA-V (`Annotations*/SEQUENCE/OBJECT/FRAME.png`).
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from masklet.errors import BadVideo
from masklet.files import atomic_write, make_folder
from masklet.masks import FrameMasks, box_of
from masklet.metrics import contour_accuracy, deepest, region_similarity
from masklet.model.network import Network
from masklet.prompts import Box, Click, Prompt
from masklet.render import assign_colours, render
from masklet.session import Session

PromptKind = Literal["click", "3-clicks", "box", "mask"]
PICTURES = (".jpg", ".jpeg", ".png")
STRIP_FRAMES, STRIP_PX = 6, 320
"""Frames of a contact strip, and the width of each."""


@dataclass(frozen=True)
class Sequence:
    """One video of a dataset."""

    name: str
    pictures: Path
    truths: Path
    """Holds one picture a frame, or one folder an object with one picture a frame."""

    def frames(self) -> dict[int, str]:
        """Return the annotated frames: index in the video to the file's stem."""
        stems = [p.stem for p in sorted(self.pictures.iterdir()) if p.suffix.lower() in PICTURES]
        annotated = {p.stem for p in self.truths.rglob("*.png")}
        return {i: stem for i, stem in enumerate(stems) if stem in annotated}

    def truth(self, stem: str) -> dict[str, NDArray[np.bool_]]:
        """Return the true mask of each object that can be seen on a frame, by name."""
        whole = self.truths / f"{stem}.png"
        if whole.exists():
            labels = np.asarray(Image.open(whole))
            labels = labels if labels.ndim == 2 else labels[..., 0]
            return {str(i): labels == i for i in np.unique(labels).tolist() if i}
        single = {p.parent.name: np.asarray(Image.open(p).convert("L")) > 0 for p in self.truths.glob(f"*/{stem}.png")}
        return {name: mask for name, mask in single.items() if mask.any()}


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


@dataclass(frozen=True)
class Report:
    """What came out."""

    scores: tuple[Score, ...]
    frames_per_second: float
    strips: Mapping[str, Image.Image]
    """For each sequence, a few of its frames side by side with masks drawn."""

    def mean(self, of: Callable[[Score], float]) -> float:
        """Return the mean over objects, as DAVIS 2017 has it."""
        return float(np.mean([of(score) for score in self.scores]))

    def table(self, model: str, prompt: str) -> str:
        """Return the scores as text, worst first; of several rounds the last, and J&F after each."""
        lines = [f"{'':<24}{'object':>12}{'J&F':>8}{'J':>8}{'F':>8}"]
        for s in sorted(self.scores, key=lambda s: s.jf):
            lines.append(f"{s.sequence:<24}{s.object:>12}{100 * s.jf:>8.1f}{100 * s.j:>8.1f}{100 * s.f:>8.1f}")
        j, f = 100 * self.mean(lambda s: s.j), 100 * self.mean(lambda s: s.f)
        lines.append(f"{'mean':<36}{(j + f) / 2:>8.1f}{j:>8.1f}{f:>8.1f}")
        rounds = 100 * np.mean([score.rounds for score in self.scores], axis=0)
        if len(rounds) > 1:
            lines.append("J&F by round: " + ", ".join(f"{value:.1f}" for value in rounds))
        lines.append(f"{model}, prompt {prompt}, {self.frames_per_second:.2f} frames/s")
        return "\n".join(lines)


def sequences(dataset: str | Path) -> tuple[Sequence, ...]:
    """Find the sequences of a dataset's folder. Raises `BadVideo` where there are none."""
    dataset = Path(dataset)
    images = _folder(dataset, "JPEGImages")
    annotations = _folder(dataset, "Annotations")
    found = [
        Sequence(path.name, images / path.name, path)
        for path in sorted(annotations.iterdir())
        if path.is_dir() and (images / path.name).is_dir()
    ]
    if not found:
        raise BadVideo(f"{dataset} holds no sequence that has both pictures and masks: see 'masklet evaluate --help'")
    return tuple(found)


def evaluate(
    dataset: str | Path,
    network: Network,
    *,
    prompt: PromptKind = "mask",
    rounds: int = 0,
    report: Callable[[str], None] = lambda line: None,
) -> Report:
    """Prompt each object where it is first seen, track forward, and compare every annotated frame.

    The first and the last annotated frame do not count (DAVIS). Each of `rounds` adds, for every object, a corrective
    click on its worst frame, in the middle of the largest error. Speed counts decoding and tracking.
    """
    scores: list[Score] = []
    strips: dict[str, Image.Image] = {}
    frames, seconds = 0, 0.0
    for sequence in sequences(dataset):
        run = _Run(sequence, network, prompt)
        scores.extend(run.scores(rounds))
        strips[sequence.name] = run.strip
        frames, seconds = frames + run.frames, seconds + run.seconds
        mean = np.mean([s.jf for s in scores if s.sequence == sequence.name])
        report(f"{sequence.name}: J&F {100 * mean:.1f}, {run.frames / run.seconds:.2f} frames/s")
    return Report(tuple(scores), frames / seconds, strips)


@dataclass(eq=False)
class _Run:
    """One sequence on its way."""

    sequence: Sequence
    network: Network
    prompt: PromptKind
    frames: int = 0
    seconds: float = 0.0
    strip: Image.Image = field(default_factory=lambda: Image.new("RGB", (STRIP_FRAMES * STRIP_PX, 1)))

    def scores(self, rounds: int) -> Iterator[Score]:
        annotated = self.sequence.frames()
        with Session(self.sequence.pictures, self.network, keep_logits=True) as session:
            starts = self._start(session, annotated)
            history: dict[str, list[float]] = {name: [] for name in starts}
            for left in range(rounds, -1, -1):
                fits = self._fits(session, annotated)
                for name in starts:
                    history[name].append(_mean_jf(fits[name], starts[name], annotated))
                if left:
                    self._correct(session, annotated, fits)
            self._draw(session)
        for name, frame in starts.items():
            counted = [fits[name][i] for i in _counted(frame, annotated)]
            j, f = np.mean(counted, axis=0) if counted else (1.0, 1.0)
            yield Score(self.sequence.name, name, float(j), float(f), tuple(history[name]))

    def _start(self, session: Session, annotated: dict[int, str]) -> dict[str, int]:
        """Prompt each object on the first frame that shows it, and return those frames."""
        starts: dict[str, int] = {}
        for index, stem in annotated.items():
            for name, mask in self.sequence.truth(stem).items():
                if name not in starts:
                    starts[name] = index
                    session.add(_prompt(self.prompt, name, index, mask))
        return starts

    def _fits(self, session: Session, annotated: dict[int, str]) -> dict[str, dict[int, tuple[float, float]]]:
        """Track, and compare each object on each annotated frame: J and F."""
        fits: dict[str, dict[int, tuple[float, float]]] = {name: {} for name in session.objects}
        before = time.perf_counter()
        for masks in session.track("forward"):
            self.seconds += time.perf_counter() - before
            self.frames += 1
            if masks.frame in annotated:
                self._compare(masks, annotated[masks.frame], fits)
            before = time.perf_counter()
        return fits

    def _compare(self, masks: FrameMasks, stem: str, fits: dict[str, dict[int, tuple[float, float]]]) -> None:
        truth = self.sequence.truth(stem)
        nothing = np.zeros(masks.masks.shape[1:], bool)
        for name, mask in exclusive(masks).items():
            expected = truth.get(name, nothing)
            fits[name][masks.frame] = region_similarity(mask, expected), contour_accuracy(mask, expected)

    def _draw(self, session: Session) -> None:
        """Put some frames side by side, evenly spaced from the first to the last."""
        video = session.video
        height = round(STRIP_PX * video.height / video.width)
        self.strip = Image.new("RGB", (STRIP_FRAMES * STRIP_PX, height))
        colours = assign_colours(session.objects)
        for i in range(STRIP_FRAMES):
            [frame] = video.frames_at([round(i * (video.frame_count - 1) / (STRIP_FRAMES - 1))])
            drawn = render(frame.rgb, session.preview(frame.index), colours=colours, mask_type="highlighted")
            self.strip.paste(Image.fromarray(drawn).resize((STRIP_PX, height)), (i * STRIP_PX, 0))

    def _correct(
        self,
        session: Session,
        annotated: dict[int, str],
        fits: dict[str, dict[int, tuple[float, float]]],
    ) -> None:
        """Click where it is worst: on what is missing, or, negative, on what is too much."""
        for name, known in fits.items():
            frame = min(known, key=lambda index: known[index][0])
            mask = session.preview(frame)[name]
            truth = self.sequence.truth(annotated[frame]).get(name, np.zeros_like(mask))
            missing, wrong = truth & ~mask, mask & ~truth
            if not missing.any() and not wrong.any():
                continue
            positive = np.count_nonzero(missing) >= np.count_nonzero(wrong)
            x, y = deepest(missing if positive else wrong)
            session.add_click(name, frame, x, y, positive=bool(positive))


def exclusive(masks: FrameMasks) -> dict[str, NDArray[np.bool_]]:
    """Return masks that do not overlap, as true ones do not: a pixel goes to the object with the highest logit."""
    if masks.logits is None or not masks.objects:
        raise ValueError("give masks with logits")
    owner = masks.logits.argmax(axis=0)
    return {name: masks.masks[row] & (owner == row) for row, name in enumerate(masks.objects)}


def _prompt(kind: PromptKind, name: str, frame: int, mask: NDArray[np.bool_]) -> Prompt:
    if kind == "mask":
        return Prompt(name, frame, mask=mask)
    if kind == "box":
        box = box_of(mask)
        assert box is not None  # noqa: S101 - only objects that are seen are prompted
        return Prompt(name, frame, box=Box(*(float(v) for v in box)))
    if kind == "click":
        return Prompt(name, frame, clicks=(Click(*deepest(mask)),))
    return Prompt(name, frame, clicks=tuple(_spread(mask, 3)))


def _spread(mask: NDArray[np.bool_], count: int) -> Iterator[Click]:
    """Yield clicks inside a mask, the deepest point first, then the deepest of what lies farther from those before."""
    left = mask.copy()
    ys, xs = np.mgrid[: mask.shape[0], : mask.shape[1]]
    clear_px = np.sqrt(np.count_nonzero(mask) / np.pi) / 2
    for _ in range(count):
        x, y = deepest(left if left.any() else mask)
        left &= (ys - y) ** 2 + (xs - x) ** 2 > clear_px**2
        yield Click(x, y)


def _counted(start: int, annotated: dict[int, str]) -> list[int]:
    """Return the frames that count: after the prompted one, without the last."""
    return [index for index in list(annotated)[:-1] if index > start]


def _mean_jf(fits: dict[int, tuple[float, float]], start: int, annotated: dict[int, str]) -> float:
    counted = [fits[i] for i in _counted(start, annotated)]
    return float(np.mean(counted)) if counted else 1.0


def _folder(dataset: Path, kind: str) -> Path:
    """Find `JPEGImages` or `Annotations`, with SA-V's frame rates or DAVIS's resolution below."""
    found = sorted(path for path in dataset.glob(f"{kind}*") if path.is_dir())
    if not found:
        raise BadVideo(f"{dataset} has no folder {kind}: give a dataset laid out as DAVIS, MOSE or SA-V")
    inner = [found[0] / name for name in ("480p", "Full-Resolution")]
    return next((path for path in inner if path.is_dir()), found[0])


def summary(report: Report, *, name: str, prompt: str) -> dict[str, object]:
    """Return a report as JSON can hold it."""
    means = {"jf": report.mean(lambda s: s.jf), "j": report.mean(lambda s: s.j), "f": report.mean(lambda s: s.f)}
    scores = [asdict(score) | {"jf": score.jf} for score in report.scores]
    return {
        "model": name,
        "prompt": prompt,
        "mean": means,
        "frames_per_second": report.frames_per_second,
        "scores": scores,
    }


def save(report: Report, out: str | Path, *, name: str, prompt: str) -> None:
    """Write `scores.json`, and `sheet.png`: a strip of every sequence, worst on top."""
    out = Path(out)
    make_folder(out)
    with atomic_write(out / "scores.json") as draft:
        draft.write(json.dumps(summary(report, name=name, prompt=prompt), indent=1).encode())
    worst = {s.sequence: s.jf for s in sorted(report.scores, key=lambda s: -s.jf)}
    strips = [report.strips[sequence] for sequence in sorted(worst, key=lambda sequence: worst[sequence])]
    sheet = Image.new("RGB", (strips[0].width, sum(strip.height for strip in strips)))
    top = 0
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height
    sheet.save(out / "sheet.png")
