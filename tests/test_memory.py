"""What is kept of an object: chosen by distance in frames, as the reference does, and no more than attention reads."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from masklet.memory import Memory, MemoryBank, reach_of
from masklet.model.matching import ANYWHERE, LAST_TRUST, TRUST, Sighting

MOST_RECENT = 15
"""As many frames back as the official predictor's object pointers go."""


def memory(frame, *, score=1.0):
    """Return a memory whose tensors all hold its frame's number."""
    held = torch.tensor(float(frame))
    logits = torch.ones(1, 2, 2)
    return Memory(frame, logits, score, iou=0.5, pointer=held, map=held, sighting=Sighting(held, held, held))


def with_colour(memory, shade):
    """Return the same of a thing of one colour."""
    palette = torch.nn.functional.one_hot(torch.tensor(shade), 12).float()
    return replace(memory, sighting=replace(memory.sighting, palette=palette))


def run(bank, frames, *, reverse=False, corrected=()):
    """Pass over frames as the tracker does, and yield each tracked frame with what it recollects."""
    for frame in frames:
        bank.arrive(frame, reverse=reverse)
        if frame in bank.prompted:
            continue
        yield frame, chosen(bank.recollect(frame, reverse=reverse, reach=MOST_RECENT))
        bank.keep(memory(frame), prompted=frame in corrected)


def chosen(recollection):
    """Return the frames and slots of maps, and the frames and distances of pointers."""
    return (
        sorted((int(held), slot) for held, slot in recollection.maps),
        sorted((int(held), distance) for held, distance in recollection.pointers),
    )


def reference(frame, prompted, tracked, *, reverse, reach):
    """Choose from everything ever seen, by the words of `sam2_base.py`: no bank, nothing dropped."""
    sign = -1 if reverse else 1
    maps = [(f, 6) for f in prompted] + [(frame - sign * d, d - 1) for d in range(1, 7) if frame - sign * d in tracked]
    pointers = [(f, sign * (frame - f)) for f in prompted if sign * (frame - f) >= 0]
    pointers += [(frame - sign * d, d) for d in range(1, reach + 1) if frame - sign * d in tracked]
    return sorted(maps), sorted(pointers)


clips = st.integers(1, 60).flatmap(
    lambda count: st.tuples(
        st.just(count),
        st.sets(st.integers(0, count - 1), min_size=1, max_size=12),
        st.sets(st.integers(0, count - 1), max_size=6),
        st.booleans(),
    )
)


@settings(max_examples=300, deadline=None)
@given(clips)
def test_a_bounded_bank_chooses_what_the_reference_chooses_from_everything(clip):
    count, prompted, corrected, reverse = clip
    bank = MemoryBank()
    for frame in prompted:
        bank.keep(memory(frame), prompted=True)
    known, tracked = set(prompted), set()
    order = range(count - 1, -1, -1) if reverse else range(count)
    for frame, choice in run(bank, order, reverse=reverse, corrected=corrected):
        assert reference(frame, known, tracked, reverse=reverse, reach=MOST_RECENT) == choice
        (known if frame in corrected else tracked).add(frame)
        assert len(bank.recent) <= MOST_RECENT


@settings(max_examples=100, deadline=None)
@given(clips, st.integers(1, 59))
def test_a_pass_that_continues_remembers_as_if_it_had_never_stopped(clip, stop):
    count, prompted, corrected, reverse = clip
    order = list(range(count))[:: -1 if reverse else 1]

    def recollections(pieces):
        bank = MemoryBank()
        for frame in prompted:
            bank.keep(memory(frame), prompted=True)
        return [said for piece in pieces for said in run(bank, piece, reverse=reverse, corrected=corrected)]

    assert recollections([order]) == recollections([order[:stop], order[stop:]])


def test_a_prompted_frame_inside_the_window_leaves_its_slot_empty():
    bank = MemoryBank()
    for frame in (0, 5):
        bank.keep(memory(frame), prompted=True)
    maps, pointers = dict(run(bank, range(9)))[8]
    assert maps == [(0, 6), (2, 5), (3, 4), (4, 3), (5, 6), (6, 1), (7, 0)]
    assert pointers == [(0, 8), (1, 7), (2, 6), (3, 5), (4, 4), (5, 3), (6, 2), (7, 1)]


def test_maps_of_prompted_frames_come_from_the_future_too_but_their_pointers_do_not():
    bank = MemoryBank()
    for frame in (0, 9):
        bank.keep(memory(frame), prompted=True)
    assert chosen(bank.recollect(4, reverse=False, reach=MOST_RECENT)) == ([(0, 6), (9, 6)], [(0, 4)])
    assert chosen(bank.recollect(4, reverse=True, reach=MOST_RECENT)) == ([(0, 6), (9, 6)], [(9, 5)])


@pytest.mark.parametrize(
    ("frame_count", "reach"), [(1, 1), (2, 1), (3, 2), (8, 7), (15, 14), (16, 15), (17, 15), (3000, 15), (None, 15)]
)
def test_pointers_reach_fifteen_frames_or_to_the_ends_of_a_short_clip(frame_count, reach):
    assert reach == reach_of(frame_count)


def test_what_attention_can_no_longer_reach_is_let_go():
    bank = MemoryBank()
    bank.keep(memory(0), prompted=True)
    list(run(bank, range(1, 41)))
    assert list(range(26, 41)) == sorted(bank.recent)
    assert list(range(34, 41)) == sorted(f for f, m in bank.recent.items() if m.map is not None)
    assert [f for f, m in bank.recent.items() if m.logits is not None] == [40]
    assert bank.prompted[0].map is not None
    with pytest.raises(LookupError, match="frame 26"):
        bank.recent[26].low_resolution()


def test_an_unbounded_bank_keeps_everything():
    bank = MemoryBank(unbounded=True)
    bank.keep(memory(0), prompted=True)
    list(run(bank, range(1, 41)))
    list(run(bank, range(20, 17, -1), reverse=True))
    assert list(range(1, 41)) == sorted(bank.recent)
    assert all(m.map is not None and m.logits is not None for m in bank.recent.values())


@pytest.mark.parametrize(
    ("first", "then", "reverse"),
    [
        (range(1, 6), range(1, 3), False),  # the same again
        (range(1, 6), range(8, 10), False),  # further on
        (range(1, 6), range(6, 3, -1), True),  # back
    ],
)
def test_a_new_pass_starts_from_the_prompted_frames_alone(first, then, reverse):
    bank = MemoryBank()
    bank.keep(memory(0), prompted=True)
    list(run(bank, first))
    bank.arrive(then[0], reverse=reverse)
    assert looked_at(bank, then[0], reverse=reverse) == [(0, then[0])]
    maps, _ = next(iter(run(bank, then, reverse=reverse)))[1]
    assert maps == [(0, 6)]


def test_a_pass_stands_behind_the_frames_that_it_comes_to_next():
    bank = MemoryBank()
    assert not bank.stands_behind(range(6, 9), reverse=False)
    for reverse, next_frames, others in ((False, range(6, 9), range(7, 9)), (True, range(2, 5), range(2, 4))):
        bank.arrive(5, reverse=reverse)
        assert bank.stands_behind(next_frames, reverse=reverse)
        assert not bank.stands_behind(others, reverse=reverse)
        assert not bank.stands_behind(next_frames, reverse=not reverse)


def test_a_pass_whose_last_frame_became_stale_is_not_continued():
    bank = MemoryBank()
    bank.keep(memory(0), prompted=True)
    list(run(bank, range(1, 6)))
    bank.forget(range(3, 9))
    maps, _ = next(iter(run(bank, range(6, 8))))[1]
    assert maps == [(0, 6)]


def test_a_correction_takes_the_place_of_the_tracked_memory():
    bank = MemoryBank()
    bank.keep(memory(0), prompted=True)
    list(run(bank, range(1, 4)))
    correction = memory(2)
    bank.keep(correction, prompted=True)
    assert sorted(bank.recent) == [1, 3]
    assert bank.at(2) is correction


def test_a_correction_of_a_frame_just_tracked_reaches_as_far_back_as_its_tracking_did():
    bank = MemoryBank()
    bank.keep(memory(0), prompted=True)
    *_, (frame, tracked) = run(bank, range(1, 12))
    assert chosen(bank.recollect(frame, reverse=False, reach=MOST_RECENT)) == tracked


@pytest.mark.parametrize("official", [False, True])
def test_a_frame_whose_prompt_is_withdrawn_is_forgotten_and_officially_counts_as_tracked(official):
    bank = MemoryBank(unbounded=official)
    for frame in (0, 4):
        bank.keep(memory(frame), prompted=True)
    list(run(bank, range(1, 6)))
    bank.withdraw(4)
    maps, _ = chosen(bank.recollect(6, reverse=False, reach=MOST_RECENT))
    assert [slot for held, slot in maps if held == 4] == ([1] if official else [])


# Where nano looks for an object


def looked_at(bank, frame, *, reverse=False):
    """Return the frames that are looked at and how far away they are."""
    found = bank.recollect(frame, reverse=reverse, reach=MOST_RECENT).sightings
    return [(sighting.looks.item(), distance) for sighting, distance in found]


def test_an_object_is_looked_for_as_on_the_prompted_frame_and_the_three_just_passed():
    bank = MemoryBank()
    bank.keep(memory(0), prompted=True)
    list(run(bank, range(1, 10)))
    assert looked_at(bank, 10) == [(0, 10), (9, 1), (8, 2), (7, 3)]
    assert [f for f, m in bank.recent.items() if m.sighting is not None] == [7, 8, 9]


def with_absences(frames, absent, *, reverse=False):
    """Return a bank after a pass over frames, on some of which the object was absent; the first one is prompted."""
    bank, said = MemoryBank(), memory(frames[0])
    bank.keep(replace(said, sighting=replace(said.sighting, trust=TRUST)), prompted=True)
    for frame in frames:
        bank.arrive(frame, reverse=reverse)
        if frame not in bank.prompted:
            bank.keep(memory(frame, score=-1.0 if frame in absent else 1.0), prompted=False)
    return bank


@pytest.mark.parametrize("reverse", [False, True])
def test_a_lost_object_is_looked_for_anywhere_as_it_was_last_and_not_in_what_was_there_without_it(reverse):
    frames, sign = (range(90, -1, -1), -1) if reverse else (range(91), 1)
    absent = {frames[i] for i in range(8, 91)}
    bank = with_absences(frames, absent, reverse=reverse)
    now = frames[-1] + sign
    last = [(frames[i], max(ANYWHERE, abs(now - frames[i]))) for i in (0, 7, 6, 5)]
    assert looked_at(bank, now, reverse=reverse) == [*last, (now - sign, 1), (now - 2 * sign, 2)]
    assert len(bank.seen) == 3


def test_of_a_lost_object_what_a_person_said_weighs_more_than_all_the_rest():
    bank = with_absences(range(12), absent={10, 11})
    trusts = [sighting.trust for sighting, _ in bank.recollect(12, reverse=False, reach=MOST_RECENT).sightings]
    assert trusts == [LAST_TRUST, 0, 0, 0, 0, 0]
    assert math.exp(LAST_TRUST) > len(trusts) - 1


def test_an_object_that_came_back_is_looked_for_near_where_it_is():
    bank = with_absences(range(12), absent={8, 9, 10})
    assert looked_at(bank, 12) == [(0, 12), (11, 1), (7, 5), (6, 6), (10, 2)]


def test_a_lost_object_that_is_prompted_again_is_looked_for_as_it_is_now():
    bank = with_absences(range(12), absent={8, 9, 10, 11})
    bank.keep(memory(11), prompted=True)
    assert looked_at(bank, 12) == [(11, 1)]


def test_what_came_before_a_correction_is_not_looked_at():
    bank = MemoryBank()
    bank.keep(memory(0), prompted=True)
    list(run(bank, range(1, 6)))
    bank.keep(memory(5), prompted=True)
    list(run(bank, range(6, 8)))
    assert looked_at(bank, 8) == [(5, 3), (7, 1), (6, 2)]


@pytest.mark.parametrize(
    ("frame", "reverse", "seen"),
    [(1, False, 0), (4, False, 0), (1, True, 5), (6, True, 9), (12, False, 9), (12, True, 9)],
)
def test_of_prompted_frames_that_contradict_each_other_the_one_last_passed_counts(frame, reverse, seen):
    bank = MemoryBank()
    for prompted in (0, 5, 9):
        bank.keep(with_colour(memory(prompted), prompted), prompted=True)
    bank.arrive(frame, reverse=reverse)
    assert looked_at(bank, frame, reverse=reverse) == [(seen, abs(frame - seen))]


def test_where_a_person_said_that_it_is_gone_is_not_where_to_look_for_it():
    bank = MemoryBank()
    bank.keep(memory(0), prompted=True)
    list(run(bank, range(1, 5)))
    gone = memory(5, score=-1.0)
    bank.keep(replace(gone, sighting=gone.sighting.without()), prompted=True)
    bank.arrive(6, reverse=False)
    assert looked_at(bank, 6) == [(0, ANYWHERE), (5, 1)]
    bank.keep(memory(6), prompted=False)
    bank.arrive(7, reverse=False)
    assert looked_at(bank, 7) == [(0, 7), (6, 1), (5, 2)]


@pytest.mark.parametrize(
    ("frame", "reverse", "seen"),
    [(1, False, [0, 5]), (6, False, [5, 9]), (1, True, [5, 0]), (12, False, [9]), (12, True, [9])],
)
def test_of_prompted_frames_that_agree_the_one_to_come_counts_too(frame, reverse, seen):
    bank = MemoryBank()
    for prompted in (0, 5, 9):
        bank.keep(with_colour(memory(prompted), 0), prompted=True)
    bank.arrive(frame, reverse=reverse)
    assert looked_at(bank, frame, reverse=reverse) == [(said, abs(frame - said)) for said in seen]


def test_what_shrank_on_the_way_to_the_next_prompt_is_still_the_same():
    bank = MemoryBank()
    for frame, cells in ((0, 100.0), (60, 2.0)):
        said = with_colour(memory(frame), 0)
        bank.keep(replace(said, sighting=replace(said.sighting, cover=torch.tensor(cells))), prompted=True)
    bank.arrive(1, reverse=False)
    assert looked_at(bank, 1) == [(0, 1), (60, 59)]


def test_what_a_pass_found_on_its_way_to_the_first_prompt_is_looked_at_too():
    bank = MemoryBank()
    bank.keep(memory(9), prompted=True)
    list(run(bank, range(5)))
    assert looked_at(bank, 5) == [(9, 4), (4, 1), (3, 2), (2, 3)]


def test_an_object_of_which_nothing_is_said_any_more_is_looked_for_nowhere():
    bank = MemoryBank()
    bank.keep(memory(0), prompted=True)
    list(run(bank, range(1, 4)))
    bank.withdraw(0)
    assert looked_at(bank, 4) == []
