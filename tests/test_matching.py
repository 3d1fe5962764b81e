"""Where things went: what looks alike and is near takes the mask along."""

from dataclasses import replace

import pytest
import torch
from clips import FRAMES, HEIGHT, WIDTH, ball, box_around, disc, iou, nano, picture
from torch.nn import functional

from masklet.model.colours import palettes_of
from masklet.model.matching import (
    ANYWHERE,
    EDGE,
    FAR,
    LIKENESS,
    NEAR,
    TRUST,
    UNLIKE,
    Sighting,
    carry,
    cover_of,
    evidence,
    looks_of,
    recognised,
)
from masklet.model.matching import (
    FRAMES as SOON,
)
from masklet.model.network import ABSENT
from masklet.prompts import Box, Prompt
from masklet.tracker import Tracker, hidden_where_unlike

H, W = 6, 12
SIZE_HW = (H, W)


def scene(seed=0):
    """Return features in which no two places look alike."""
    return torch.randn(1, 256, H, W, generator=torch.Generator().manual_seed(seed))


def thing(top, left, height=2, width=3):
    """Return the mask of a rectangle of places, `[1, 1, 4h, 4w]`."""
    mask = torch.zeros(1, 1, 4 * H, 4 * W)
    mask[..., 4 * top : 4 * (top + height), 4 * left : 4 * (left + width)] = 1
    return mask


def colours(image):
    """Return colours that go with the features, so that no two places have the same."""
    return image[0, :3].sigmoid().repeat_interleave(4, dim=1).repeat_interleave(4, dim=2)


def looks(image):
    return looks_of(image, colours(image))


def sighting(image, mask):
    return Sighting(looks(image), cover_of(mask)[0], palettes_of(colours(image), mask[:, 0] > 0)[0])


def found(image, *remembered):
    """Return the masks of objects, each by its sightings and their distances, `[n, 4h, 4w]`."""
    return carry(looks(image), SIZE_HW, remembered)[:, 0] > 0


def moved(image, across):
    """Move everything to the right; what comes in on the left was never seen."""
    new = torch.roll(image, across, dims=3)
    new[..., :across] = scene(9)[..., :across]
    return new


def test_a_mask_moves_with_what_it_is_on():
    before = scene()
    [mask] = found(moved(before, 2), [(sighting(before, thing(1, 3)), 1)])
    assert torch.equal(mask, thing(1, 5)[0, 0] > 0)


def test_a_cut_through_places_stays_as_fine_as_it_was():
    before, mask = scene(), thing(1, 3)
    mask[..., :7, :] = 0  # not a multiple of a place's four cells
    [again] = found(before, [(sighting(before, mask), 1)])
    assert torch.equal(again, mask[0, 0] > 0)


def twins(image, at=(9,)):
    """Return a picture with copies of what is at column 1."""
    for column in at:
        image[..., 1:3, column : column + 2] = image[..., 1:3, 1:2].expand(-1, -1, -1, 2)
    return image


def test_of_two_that_look_alike_the_nearer_one_is_meant():
    before = twins(scene(), at=(1, 9))
    [mask] = found(before, [(sighting(before, thing(1, 1, 2, 2)), 1)])
    assert torch.equal(mask, thing(1, 1, 2, 2)[0, 0] > 0)


def test_the_longer_ago_the_farther_an_object_is_looked_for():
    before = scene()
    there = scene(5)
    there[..., 1:3, 8:10] = before[..., 1:3, 1:3] + 0.4 * there[..., 1:3, 8:10]  # it has changed a little, too
    masks = found(there, *([(sighting(before, thing(1, 1, 2, 2)), distance)] for distance in (1, 60)))
    assert not masks[0].any()
    assert torch.equal(masks[1], thing(1, 8, 2, 2)[0, 0] > 0)


def test_what_hides_is_nowhere_and_is_found_when_it_comes_back():
    seen, hidden, back = scene(), scene(), scene()
    hidden[..., 1:3, 3:6] = scene(5)[..., 1:3, 3:6]
    prompted = sighting(seen, thing(1, 3))
    [gone] = found(hidden, [(prompted, 1)])
    assert not gone.any()
    since = [(sighting(hidden, thing(1, 3) * 0), distance) for distance in range(1, 7)]
    [again] = found(back, [(prompted, 30), *since])
    assert torch.equal(again, thing(1, 3)[0, 0] > 0)


def test_an_object_that_remembers_nothing_is_nowhere():
    image = scene()
    masks = found(image, [], [(sighting(image, thing(1, 3)), 1)], [])
    assert [bool(mask.any()) for mask in masks] == [False, True, False]


def test_objects_are_carried_together_as_they_are_alone():
    first, second, now = scene(), moved(scene(), 1), moved(scene(), 2)
    frames = [looks(first), looks(second)]

    def at(frame, *place):
        return Sighting(frames[frame], cover_of(thing(*place))[0], None)

    objects = [
        [(at(0, 1, 1), 2), (at(1, 1, 2), 1)],
        [(at(1, 3, 6), 1)],
        [(at(0, 0, 4), 2), (at(1, 0, 5), 1)],
        [(at(0, 0, 4), ANYWHERE), (at(1, 0, 5), ANYWHERE)],
        [(at(0, 0, 4), 2), (at(1, 3, 6), 1)],
        [(replace(at(0, 0, 4), trust=TRUST), 2), (at(1, 3, 6), 1)],
    ]
    together = carry(looks(now), SIZE_HW, objects)
    for row, alone in enumerate(objects):
        assert torch.allclose(together[row], carry(looks(now), SIZE_HW, [alone])[0], atol=1e-4)
    for one, other in ((2, 3), (4, 5)):
        assert not torch.allclose(together[one], together[other], atol=1e-4)


def compared_with_everything(now, sightings):
    """Carry one object by comparing every place with every remembered one, as the docstrings say."""
    y, x = torch.meshgrid(torch.arange(H) / W, torch.arange(W) / W, indexing="ij")
    places = torch.stack((y, x), dim=2).view(-1, 2)
    odds = [
        LIKENESS * now @ seen.looks.T
        - torch.cdist(places, places) ** 2 / min(FAR, NEAR * max(1, distance / SOON)) ** 2
        + seen.trust
        for seen, distance in sightings
    ]
    new = torch.full((H * W, 1), LIKENESS * UNLIKE)
    shares = torch.cat((*odds, new), dim=1).softmax(dim=1)[:, :-1]
    cells = shares @ torch.cat([seen.cover for seen, _ in sightings])
    return functional.pixel_shuffle(cells.T.unflatten(1, SIZE_HW), 4).clamp(EDGE, 1 - EDGE).logit()


@pytest.mark.parametrize("change", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("across", [0, 2])
def test_places_that_are_not_compared_lose_nothing(change, across):
    before = scene()
    now = looks(moved(before, across) + change * scene(7))
    noise = torch.rand(H * W, 16, generator=torch.Generator().manual_seed(3))
    sightings = [
        (replace(sighting(before, thing(1, 3)), trust=TRUST), 30),
        (replace(sighting(before, thing(1, 3)), cover=cover_of(thing(1, 3))[0].maximum(EDGE * noise)), 1),
    ]
    [[carried]] = carry(now, SIZE_HW, [sightings])
    assert torch.allclose(carried, compared_with_everything(now, sightings), atol=1e-3)


def test_what_a_person_said_outweighs_what_was_found_since():
    before = scene()
    drifted = [(sighting(before, thing(1, 3, 2, 2)), distance) for distance in (1, 2)]
    [mask] = found(before, [(replace(sighting(before, thing(1, 3)), trust=TRUST), 6), *drifted])
    assert torch.equal(mask, thing(1, 3)[0, 0] > 0)
    [found_only] = found(before, [(sighting(before, thing(1, 3)), 6), *drifted])
    assert torch.equal(found_only, thing(1, 3, 2, 2)[0, 0] > 0)


def test_the_smaller_an_object_the_less_is_believed_of_what_was_carried():
    small, large = (torch.logit(thing(0, 0, side, side).clamp(0.001, 0.999)) for side in (1, 6))
    shares = [float((evidence(carried) / carried).mean()) for carried in (small, large)]
    assert shares[0] < 0.1
    assert 0.4 < shares[1] < 0.6


PALETTES = {"red": (1.0, 0.0), "redder": (0.9, 0.1), "half": (0.5, 0.5), "blue": (0.0, 1.0)}


def known(palette, *remembered):
    """Tell whether something of one palette is taken for what had others; None is an object that was absent."""
    return recognised(seen(palette), [(seen(one), 1) for one in remembered])


def seen(palette, size=100.0):
    return Sighting(torch.zeros(1), torch.tensor([size]), None if palette is None else torch.tensor(PALETTES[palette]))


def test_an_object_is_recognised_by_its_colours():
    assert known("red", "redder")
    assert not known("red", "blue")
    assert not known("half", "red")


def test_one_frame_with_its_colours_is_enough_but_none_without_it_counts():
    assert known("blue", "red", "blue")
    assert known("blue", None, "blue")
    assert not known("blue", "red", None)
    assert not known("blue")


def test_what_is_nowhere_is_not_recognised():
    assert not known(None, "red")


def test_a_small_piece_must_share_more_colours_unless_there_was_time_to_shrink():
    piece, whole = seen("redder", size=5.0), seen("red", size=100.0)
    assert recognised(seen("redder", size=60.0), [(whole, 1)])
    assert not recognised(piece, [(whole, 1)])
    assert recognised(piece, [(whole, 60)])
    assert recognised(piece, [(whole, 1), (seen("redder", size=6.0), 1)])
    assert recognised(seen("red", size=5.0), [(whole, 1)])


def test_no_size_and_no_time_makes_up_for_other_colours():
    for size, distance in ((10_000.0, 1), (100.0, 60)):
        assert not recognised(seen("half", size=size), [(seen("red", size=100.0), distance)])


def test_cover_counts_the_cells_of_each_place():
    mask = torch.rand(2, 1, 4 * H, 4 * W)
    assert torch.allclose(cover_of(mask).mean(2).unflatten(1, SIZE_HW), functional.avg_pool2d(mask, 4)[:, 0], atol=1e-6)


# In the tracker


def test_objects_prompted_together_share_what_their_frame_looks_like():
    tracker = Tracker(nano(), height=HEIGHT, width=WIDTH)
    features = tracker.see(picture(0))
    for name, shape in (("disc", disc), ("ball", ball)):
        tracker.prompt(features, Prompt(name, 0, box=Box(*box_around(shape(0)))))
    first, second = (tracker.bank(name).at(0).sighting for name in ("disc", "ball"))
    assert first.looks is second.looks


def test_what_a_person_said_is_noted_as_it_is_and_what_was_found_is_believed_by_half():
    features = Tracker(nano(), height=HEIGHT, width=WIDTH).see(picture(0))
    left = torch.full((2, 1, *(4 * n for n in features.size_hw)), -20.0)
    left[..., : left.shape[-1] // 2] = 20.0
    present, absent = torch.tensor([1.0, -1.0])
    [said, gone] = nano().sight(features, left, torch.stack((present, absent)), None)
    assert torch.equal(said.cover, cover_of((left > 0).float())[0])
    assert (said.trust, said.target is None, gone.palette, bool(gone.cover.any())) == (TRUST, False, None, False)
    [found, _] = nano().sight(features, left, torch.stack((present, absent)), -left)
    assert torch.allclose(found.cover, torch.tensor(0.5))
    assert (found.trust, found.target) == (0, None)


def test_an_object_that_hides_is_absent_and_comes_back_as_itself():
    tracker = Tracker(nano(256), height=HEIGHT, width=WIDTH)
    scores, last = {}, None
    for frame in range(FRAMES):
        rgb = picture(frame)
        if frame in (3, 4):
            rgb[:48] = picture(frame)[48:][::-1]  # a look-alike of the ball stands before the disc
            rgb[:48][ball(frame)[48:][::-1]] = 25
        features = tracker.see(rgb)
        if frame == 0:
            tracker.prompt(features, Prompt("disc", 0, mask=disc(0)))
        [memory] = tracker.step(frame, features, ["disc"])
        scores[frame], last = memory.score, tracker.masks(frame, {"disc": memory})[0]
        assert (memory.score > 0) == bool((memory.logits > ABSENT).any())
    assert [frame for frame, score in scores.items() if score <= 0] == [3, 4]
    assert iou(last, disc(FRAMES - 1)) > 0.95


def test_what_has_other_colours_is_called_absent_and_remembered_as_a_frame_without_the_object():
    tracker = Tracker(nano(256), height=HEIGHT, width=WIDTH)
    features = tracker.see(picture(0))
    for name, shape in (("disc", disc), ("ball", ball)):
        tracker.prompt(features, Prompt(name, 0, mask=shape(0)))
    asked = [tracker.bank(name).recollect(1, reverse=False, reach=1) for name in ("disc", "ball")]
    found = [tracker.bank("disc").at(0)] * 2
    shown, hidden = hidden_where_unlike(found, asked)
    assert shown is found[0]
    assert hidden.score < 0
    assert (hidden.logits == ABSENT).all()
    assert hidden.sighting.palette is None
    assert not hidden.sighting.cover.any()


def test_what_stands_in_its_place_in_other_colours_is_not_taken_for_the_object():
    tracker = Tracker(nano(), height=HEIGHT, width=WIDTH)
    tracker.prompt(tracker.see(picture(0)), Prompt("disc", 0, mask=disc(0)))
    blue = picture(1)
    blue[disc(1)] = blue[disc(1)][:, ::-1]
    [memory] = tracker.step(1, tracker.see(blue), ["disc"])
    assert memory.score < 0
    assert not tracker.masks(1, {"disc": memory}).any()


@pytest.mark.parametrize("name", ["disc", "ball"])
def test_an_object_is_followed_past_another_that_goes_the_other_way(name):
    shape = {"disc": disc, "ball": ball}[name]
    tracker = Tracker(nano(768), height=HEIGHT, width=WIDTH)
    for frame in range(FRAMES):
        features = tracker.see(picture(frame))
        if frame == 0:
            tracker.prompt(features, Prompt("one", 0, box=Box(*box_around(shape(0)))))
        [memory] = tracker.step(frame, features, ["one"])
        assert iou(tracker.masks(frame, {"one": memory})[0], shape(frame)) > 0.85
