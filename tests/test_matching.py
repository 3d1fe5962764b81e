"""Where things went: what looks alike and is near takes the mask along."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from clips import FRAMES, HEIGHT, WIDTH, ball, box_around, disc, iou, nano, picture
from torch.nn import functional

from masklet.model.matching import Sighting, carry, cover_of, evidence, looks_of, recognised
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


def sighting(image, mask):
    return Sighting(looks_of(image), cover_of(mask)[0])


def found(image, *remembered):
    """Return the masks of objects, each by its sightings and their distances, `[n, 4h, 4w]`."""
    return carry(looks_of(image), SIZE_HW, remembered)[:, 0] > 0


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
    there[..., 1:3, 8:10] = before[..., 1:3, 1:3] + 0.7 * there[..., 1:3, 8:10]  # it has changed a little, too
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
    looks = [looks_of(first), looks_of(second)]
    objects = [
        [(Sighting(looks[0], cover_of(thing(1, 1))[0]), 2), (Sighting(looks[1], cover_of(thing(1, 2))[0]), 1)],
        [(Sighting(looks[1], cover_of(thing(3, 6))[0]), 1)],
        [(Sighting(looks[0], cover_of(thing(0, 4))[0]), 2), (Sighting(looks[1], cover_of(thing(0, 5))[0]), 1)],
    ]
    together = carry(looks_of(now), SIZE_HW, objects)
    for row, alone in enumerate(objects):
        assert torch.allclose(together[row], carry(looks_of(now), SIZE_HW, [alone])[0], atol=1e-4)


def test_what_a_person_said_outweighs_what_was_found_since():
    before = scene()
    drifted = [(sighting(before, thing(1, 3, 2, 2)), distance) for distance in (1, 2)]
    [mask] = found(before, [(replace(sighting(before, thing(1, 3)), prompted=True), 6), *drifted])
    assert torch.equal(mask, thing(1, 3)[0, 0] > 0)
    [found_only] = found(before, [(sighting(before, thing(1, 3)), 6), *drifted])
    assert torch.equal(found_only, thing(1, 3, 2, 2)[0, 0] > 0)


def test_the_smaller_an_object_the_less_is_believed_of_what_was_carried():
    small, large = (torch.logit(thing(0, 0, side, side).clamp(0.001, 0.999)) for side in (1, 6))
    shares = [float((evidence(carried) / carried).mean()) for carried in (small, large)]
    assert shares[0] < 0.1
    assert 0.4 < shares[1] < 0.6


def known(image, mask, *remembered):
    """Tell of objects, all carried to one mask, whether they are recognised there."""
    carried = torch.logit(mask.clamp(0.001, 0.999)).expand(len(remembered), -1, -1, -1)
    return recognised(looks_of(image), carried, [[(seen, 1) for seen in sightings] for sightings in remembered])


def test_an_object_is_recognised_where_its_own_places_are_found_again():
    before, after = scene(), moved(scene(), 2)
    [there] = known(after, thing(1, 5), [sighting(before, thing(1, 3))])
    [elsewhere] = known(after, thing(3, 0), [sighting(before, thing(1, 3))])
    assert (there, elsewhere) == (True, False)


def test_half_of_an_object_is_enough_to_recognise_it_and_a_quarter_is_not():
    before = scene()
    for columns, expected in ((2, True), (1, False)):
        [half] = known(before, thing(1, 3, 2, columns), [sighting(before, thing(1, 3, 2, 4))])
        assert half is expected


def test_an_object_smaller_than_a_place_is_recognised_too():
    before, speck, other = scene(), thing(1, 3, 1, 1), thing(4, 3, 1, 1)
    for mask in (speck, other):
        mask[..., ::2, :] = 0
        mask[..., :, ::2] = 0
    assert [known(before, mask, [sighting(before, speck)]) for mask in (speck, other)] == [[True], [False]]


def test_one_sighting_is_enough_but_none_on_which_it_was_absent_counts():
    before, turned = scene(), scene(5)
    front, back = sighting(before, thing(1, 3)), sighting(turned, thing(1, 3))
    absent = replace(back, present=False)
    assert known(turned, thing(1, 3), [front], [front, back], [front, absent], []) == [False, True, False, False]


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


def test_what_is_not_recognised_is_called_absent_and_followed_on():
    tracker = Tracker(nano(256), height=HEIGHT, width=WIDTH)
    features = tracker.see(picture(0))
    tracker.prompt(features, Prompt("disc", 0, mask=disc(0)))
    tracker.prompt(features, Prompt("backdrop", 0, mask=~(disc(0) | ball(0))))
    asked = [tracker.bank(name).recollect(1, reverse=False, reach=1) for name in ("disc", "backdrop")]
    followed = [tracker.bank("disc").at(0)] * 2
    carried = functional.interpolate(torch.from_numpy(disc(0))[None, None].float(), followed[0].logits.shape[-2:])
    shown, hidden = hidden_where_unlike(followed, features, asked, (carried * 10 - 5).expand(2, -1, -1, -1))
    assert shown is followed[0]
    assert hidden.score < 0
    assert (hidden.logits == ABSENT).all()
    assert not hidden.sighting.present
    assert hidden.sighting.cover is followed[1].sighting.cover


@pytest.mark.parametrize("name", ["disc", "ball"])
def test_an_object_passes_its_look_alike(name):
    shape = {"disc": disc, "ball": ball}[name]
    tracker = Tracker(nano(768), height=HEIGHT, width=WIDTH)
    for frame in range(FRAMES):
        features = tracker.see(picture(frame))
        if frame == 0:
            tracker.prompt(features, Prompt("one", 0, box=Box(*box_around(shape(0)))))
        [memory] = tracker.step(frame, features, ["one"])
        assert iou(tracker.masks(frame, {"one": memory})[0], shape(frame)) > 0.85
    assert np.count_nonzero(shape(0)) > 0
