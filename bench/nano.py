"""The figures of `docs/nano.md`: accuracy by prompt and by input size, absence and return, frames a second.

    python bench/nano.py --dataset DAVIS [--returns DATASET] [--model nano] [--dtype float32] [--sides 512 576 768]
        [--teacher]

`--returns` is a dataset in which objects hide and come back, as `scripts/make_training_data.py --only returns` makes:
an object without a mask on a frame is hidden there.
`--teacher` measures at 1024 px too, SAM's own size. What is read on single frames, each prompted by its own truth,
is what the decoder gives without tracking.
"""

import argparse
import time
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
from clips import EXAMPLE, machine

from masklet import Session, load_network
from masklet.dataset import Sequence, sequences
from masklet.evaluate import PromptKind, evaluate
from masklet.masks import box_of
from masklet.metrics import Fit, compare, deepest, region_similarity
from masklet.model.network import Network
from masklet.prompts import Box, Click, Prompt
from masklet.tracker import Tracker
from masklet.video import open_video

PROMPTS: tuple[PromptKind, ...] = ("mask", "box", "click")
TEACHER_PX = 1024
EVERY = 10
"""One in so many frames is clicked on as if it were a picture."""
SAME = 0.5
"""Overlap with the truth from which on a mask after a return is of the same object."""


def accuracy(dataset: Path, network: Network, prompts: tuple[PromptKind, ...]) -> None:
    """Print J&F by prompt."""
    for prompt in prompts:
        report = evaluate(dataset, network, prompt=prompt)
        print_row(network, prompt, {one.name: one.jf for one in report.sequences}, report.mean(lambda score: score.jf))


def single_frames(dataset: Path, network: Network) -> None:
    """Print how well single pictures are read, each prompted by its own true mask: by one click, and by its box."""
    jfs: dict[str, dict[str, float]] = {"click": {}, "box": {}}
    for sequence in sequences(dataset):
        found = read_singly(sequence, network)
        for kind, fits in zip(jfs, found, strict=True):
            jfs[kind][sequence.name] = float(np.mean([fit.jf for fit in fits]))
        print(
            f"{sequence.name}: one click on {len(found[0])} single masks, J {np.mean([fit.j for fit in found[0]]):.3f}"
        )
    for kind, by_sequence in jfs.items():
        print_row(network, f"{kind} on each single frame", by_sequence, float(np.mean([*by_sequence.values()])))


def print_row(network: Network, prompt: str, jfs: Mapping[str, float], mean: float) -> None:
    """Print J&F of each sequence and of all, 0..1, as percent."""
    each = "  ".join(f"{name} {100 * jf:.1f}" for name, jf in jfs.items())
    print(f"{network.config.image_px:>5} px  {prompt:<6} J&F {100 * mean:.1f}   {each}", flush=True)


def read_singly(sequence: Sequence, network: Network) -> tuple[list[Fit], list[Fit]]:
    """Compare what one click at the deepest point of a true mask gives, and what its box gives, without memory."""
    frames = sequence.frames()
    fits: tuple[list[Fit], list[Fit]] = ([], [])
    with open_video(sequence.pictures) as video:
        tracker = Tracker(network, height=video.height, width=video.width)
        for frame in video.frames(0, video.frame_count):
            if frame.index % EVERY or frame.index not in frames:
                continue
            features = tracker.see(frame.rgb)
            for name, mask in sequence.truth(frames[frame.index]).items():
                box = box_of(mask)
                if box is None:
                    continue
                click = Prompt(name, frame.index, clicks=(Click(*deepest(mask), positive=True),))
                for known, prompt in zip(fits, (click, Prompt(name, frame.index, box=Box(*box))), strict=True):
                    memory = tracker.prompt(features, prompt)
                    known.append(compare(tracker.masks(frame.index, {name: memory})[0], mask))
                    tracker.remove(name)
    return fits


def absences(dataset: Path, network: Network) -> None:
    """Print how well absence is said, and how often what comes back is the same object again."""
    hits = false = missed = 0
    returns = []
    for sequence in sequences(dataset):
        shown, found, fits = followed(sequence, network)
        hits += int((~shown & ~found).sum())
        false += int((shown & ~found).sum())
        missed += int((~shown & found).sum())
        returns += [overlap for row, fit in zip(shown, fits, strict=True) for overlap in after_returns(row, fit)]
    print(f"absent: precision {hits / max(1, hits + false):.2f}, recall {hits / max(1, hits + missed):.2f}")
    same = float(np.mean([overlap >= SAME for overlap in returns]))
    print(f"after a return the same object: {same:.2f} of {len(returns)}", flush=True)


def followed(sequence: Sequence, network: Network) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Follow each object from its mask on the first frame; return what is shown, what is said, and how well it fits."""
    frames = sequence.frames()
    truths = {index: sequence.truth(stem) for index, stem in frames.items()}
    first = next(iter(frames))
    with Session(sequence.pictures, network) as session:
        for name, mask in truths[first].items():
            if mask.any():
                session.add_mask(name, first, mask)
        answers = {masks.frame: masks for masks in session.track("forward")}
        names, rest = session.objects, range(first + 1, session.video.frame_count)
    nothing = np.zeros_like(next(iter(truths[first].values())))
    real = {name: [truths.get(index, {}).get(name, nothing) for index in rest] for name in names}
    shown = np.array([[mask.any() for mask in real[name]] for name in names])
    found = np.array([[answers[index][name].any() for index in rest] for name in names])
    fits = [[region_similarity(answers[i][n], t) for i, t in zip(rest, real[n], strict=True)] for n in names]
    return shown, found, np.array(fits)


def after_returns(shown: np.ndarray, fits: np.ndarray) -> list[float]:
    """Return the mean overlap of each stretch of frames that follows an absence."""
    edges = [0, *(np.flatnonzero(np.diff(shown.astype(int))) + 1).tolist(), len(shown)]
    return [float(fits[start:end].mean()) for start, end in pairwise(edges) if start > 0 and shown[start]]


def speed(network: Network, objects: int) -> None:
    """Print frames a second on the example clip, decoding and storing included."""
    with Session(EXAMPLE, network) as session:
        for i in range(objects):
            x, y = 40 + 90 * (i % 5), 60 + 60 * (i // 5)
            session.add_box(f"thing-{i}", 0, x, y, x + 80, y + 50)
        times = []
        before = time.perf_counter()
        for _ in session.track("forward", max_frames=24):
            times.append(time.perf_counter() - before)
            before = time.perf_counter()
    rate = 1 / float(np.median(times[8:]))
    print(f"{network.config.image_px:>5} px  {objects} object(s): {rate:.2f} frames a second", flush=True)


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path)
    parser.add_argument("--returns", type=Path)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--sides", type=int, nargs="*", default=[])
    parser.add_argument("--teacher", action="store_true")
    arguments = parser.parse_args()
    print(machine(), flush=True)
    network = load_network(arguments.model, dtype=arguments.dtype)
    own = network.config.image_px
    speed(network, 1)
    speed(network, 5)
    if arguments.dataset:
        single_frames(arguments.dataset, network)
        accuracy(arguments.dataset, network, PROMPTS)
        for side in [*arguments.sides, *([TEACHER_PX] if arguments.teacher else [])]:
            network.take_pictures_of(side)
            speed(network, 1)
            single_frames(arguments.dataset, network)
            accuracy(arguments.dataset, network, ("mask",))
        network.take_pictures_of(own)
    if arguments.returns:
        absences(arguments.returns, network)


if __name__ == "__main__":
    main()
