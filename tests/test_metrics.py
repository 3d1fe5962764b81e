"""J and F beside the `vos-benchmark` package on the same masks, and what a frame counts for."""

import numpy as np
import pytest
from scipy import ndimage
from vos_benchmark.evaluator import Evaluator

from masklet.metrics import (
    Fit,
    compare,
    contour,
    contour_accuracy,
    counted,
    deepest,
    dilate,
    region_similarity,
)

SAME = 1e-9
"""Both count pixels and divide; the requirement is four digits."""


def blob(seed, height, width, *, smooth_px=4.0, share=0.3):
    """Return smooth islands of chance that cover about a share of the picture."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(height, width)), smooth_px)
    return noise > np.quantile(noise, 1 - share)


def rectangle(y0, y1, x0, x1, height=60, width=90):
    mask = np.zeros((height, width), bool)
    mask[y0:y1, x0:x1] = True
    return mask


def shifted(mask, dy, dx):
    return np.asarray(ndimage.shift(mask.astype(np.uint8), (dy, dx), order=0), bool)


def pairs():
    """Yield masks to compare: name, ours, truth."""
    for seed, (height, width) in enumerate([(480, 854), (240, 427), (96, 128), (37, 53), (53, 37), (64, 64)]):
        truth = blob(seed, height, width)
        yield f"blobs of {height}x{width}", blob(seed + 100, height, width), truth
        yield f"shifted blobs of {height}x{width}", shifted(truth, 2, -3), truth
        yield f"noise on {height}x{width}", truth ^ blob(seed + 200, height, width, smooth_px=0, share=0.05), truth
    empty, full = np.zeros((60, 90), bool), np.ones((60, 90), bool)
    middle = rectangle(20, 40, 30, 60)
    for name, a in (("empty", empty), ("full", full), ("middle", middle)):
        for other, b in (("empty", empty), ("full", full), ("middle", middle)):
            yield f"{name} and {other}", a, b
    for name, mask in {
        "upper line": rectangle(0, 1, 0, 90),
        "lower line": rectangle(59, 60, 0, 90),
        "left line": rectangle(0, 60, 0, 1),
        "right line": rectangle(0, 60, 89, 90),
        "upper left half": rectangle(0, 30, 0, 45),
        "lower right half": rectangle(30, 60, 45, 90),
        "last pixel": rectangle(59, 60, 89, 90),
        "first pixel": rectangle(0, 1, 0, 1),
        "thin line": rectangle(30, 31, 10, 80),
        "all but the last pixel": ~rectangle(59, 60, 89, 90),
    }.items():
        yield f"{name} and middle", mask, middle
        yield f"middle and {name}", middle, mask
        yield f"{name} and its neighbour", mask, shifted(mask, 1, 1)
    y, x = np.mgrid[:60, :90]
    yield "diagonals", abs(x - y) < 1, abs(x - y - 2) < 1
    yield "chequers", (x + y) % 2 == 0, (x + y) % 2 == 1
    for height, width in ((1, 1), (1, 9), (9, 1), (2, 3), (3, 2)):
        for seed in range(4):
            yield (
                f"chance {seed} on {height}x{width}",
                blob(seed, height, width, smooth_px=0, share=0.5),
                blob(seed + 9, height, width, smooth_px=0, share=0.5),
            )
    yield "a picture lower than the radius", blob(1, 2, 4000), blob(2, 2, 4000)
    # 0.008 of the diagonal is exactly 1 and 2 pixels here, so that rounding the wrong way would show.
    for height, width in ((75, 100), (150, 200)):
        yield f"round radius of {height}x{width}", blob(1, height, width), blob(2, height, width)


PAIRS = list(pairs())


def reference(mask, truth):
    """Return J and F of one object on one frame by vos-benchmark."""
    evaluator = Evaluator()
    evaluator.objects_in_gt.add(1)  # else it says nothing of two empty masks
    evaluator.feed_frame(mask.astype(np.uint8), truth.astype(np.uint8))
    j, f = evaluator.conclude()
    return j[1] / 100, f[1] / 100


@pytest.mark.parametrize(("mask", "truth"), [pair[1:] for pair in PAIRS], ids=[pair[0] for pair in PAIRS])
def test_j_and_f_are_those_of_vos_benchmark(mask, truth):
    j, f = reference(mask, truth)
    assert region_similarity(mask, truth) == pytest.approx(j, abs=SAME)
    assert contour_accuracy(mask, truth) == pytest.approx(f, abs=SAME)
    assert compare(mask, truth) == Fit(
        region_similarity(mask, truth), contour_accuracy(mask, truth), bool(truth.any()), bool(mask.any())
    )


def test_the_pairs_are_neither_all_right_nor_all_wrong():
    values = [(compare(mask, truth).j, compare(mask, truth).f) for _, mask, truth in PAIRS]
    assert sum(0.05 < j < 0.95 for j, _ in values) > 20
    assert sum(0.05 < f < 0.95 for _, f in values) > 20
    assert any(j < 0.1 and f == 1 for j, f in values)  # a full picture has no contour


def film(seed, *, frames=12):
    """Return masks and truths of one object that may come late, hide, be lost, or be seen where it is not."""
    rng = np.random.default_rng(seed)
    came = rng.integers(0, frames)
    truths, masks = [], []
    for frame in range(frames):
        truth = blob(frame, 24, 32) if frame >= came and rng.random() < 0.8 else np.zeros((24, 32), bool)
        answered = rng.random() < 0.8
        masks.append(blob(frame + 1, 24, 32) if answered else np.zeros((24, 32), bool))
        truths.append(truth)
    return masks, truths


def sequence_reference(masks, truths):
    """Return a sequence's means by vos-benchmark, which is not fed the first and the last frame; None: no score."""
    evaluator = Evaluator()
    for mask, truth in list(zip(masks, truths, strict=True))[1:-1]:
        evaluator.feed_frame(mask.astype(np.uint8), truth.astype(np.uint8))
    j, f = evaluator.conclude()
    return (j[1] / 100, f[1] / 100) if 1 in j else None


@pytest.mark.parametrize("seed", range(40))
def test_the_frames_that_count_are_those_of_vos_benchmark(seed):
    masks, truths = film(seed)
    fits = counted([compare(mask, truth) for mask, truth in zip(masks, truths, strict=True)])
    ours = (np.mean([fit.j for fit in fits]), np.mean([fit.f for fit in fits])) if fits else None
    assert ours == (
        None if (expected := sequence_reference(masks, truths)) is None else pytest.approx(expected, abs=SAME)
    )


SEEN, HIDDEN = Fit(0.5, 0.7, shown=True, answered=True), Fit(1, 1, shown=False, answered=False)
GHOST, LOST = Fit(0, 0, shown=False, answered=True), Fit(0, 0, shown=True, answered=False)


@pytest.mark.parametrize(
    ("fits", "expected"),
    [
        ([SEEN, SEEN, LOST, SEEN, GHOST], [SEEN, LOST, SEEN]),  # neither the first nor the last
        ([SEEN, SEEN, HIDDEN, SEEN], [SEEN, HIDDEN]),  # rightly gone is right
        ([HIDDEN, HIDDEN, SEEN, SEEN, SEEN], [SEEN, SEEN]),  # it was not there before
        ([HIDDEN, GHOST, SEEN, SEEN], [GHOST, SEEN]),  # but somebody said so
        ([SEEN, HIDDEN, GHOST, HIDDEN, SEEN], []),  # never shown where it counts
        ([SEEN, SEEN], []),
        ([SEEN], []),
        ([], []),
    ],
)
def test_frames_count_from_where_an_object_is_first_shown_or_answered(fits, expected):
    assert list(counted(fits)) == expected


def test_a_contour_is_one_pixel_wide_and_not_along_the_pictures_edge():
    mask = rectangle(0, 30, 0, 45)
    assert np.count_nonzero(contour(mask)) == 30 + 45 - 1  # right and lower side, which share a corner
    assert not contour(np.ones((60, 90), bool)).any()


@pytest.mark.parametrize("radius_px", [0, 1, 2, 5, 40])
@pytest.mark.parametrize("shape", [(1, 1), (5, 40), (48, 37)])
def test_dilating_takes_in_what_is_within_the_radius(shape, radius_px):
    mask = blob(radius_px, *shape, smooth_px=1, share=0.1)
    far = ndimage.distance_transform_edt(~mask) if mask.any() else np.full(shape, np.inf)
    assert np.array_equal(dilate(mask, radius_px), far <= radius_px)


@pytest.mark.parametrize(
    "mask",
    [
        blob(3, 96, 128),
        rectangle(0, 60, 0, 90),
        rectangle(0, 20, 0, 90),
        rectangle(30, 31, 10, 80),
        rectangle(59, 60, 89, 90),
        abs(np.hypot(*(np.mgrid[:60, :90] - 30)) - 20) < 6,
    ],
    ids=["blobs", "full", "at the edge", "line", "pixel", "ring"],
)
def test_the_deepest_pixel_is_in_the_mask_and_as_far_from_its_edge_as_any(mask):
    x, y = deepest(mask)
    depth = ndimage.distance_transform_cdt(np.pad(mask, 1), "taxicab")[1:-1, 1:-1]
    assert mask[int(y), int(x)]
    assert depth[int(y), int(x)] == depth.max()


def test_the_deepest_pixel_of_a_disc_is_its_middle():
    y, x = np.mgrid[:60, :90]
    assert deepest(np.hypot(x - 50, y - 20) < 15) == (50, 20)


def test_the_deepest_pixel_of_a_bar_is_half_way_along_it():
    bar = np.zeros((20, 40), bool)
    bar[7:12, 4:31] = True
    assert deepest(bar) == (17, 9)
