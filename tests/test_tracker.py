"""Frames in, masks out: a stream of unknown length, objects that come and go, and batches that change nothing."""

from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import torch
from clips import FRAMES, HEIGHT, WIDTH, ball, box_around, disc, iou, middle, nano, picture, tiny
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from parity.amplify import amplified
from torch.utils._python_dispatch import TorchDispatchMode

from masklet.errors import BadPrompt
from masklet.inputs import Geometry
from masklet.model.config import sam2_config
from masklet.model.network import Network
from masklet.prompts import Box, Click, Prompt
from masklet.tracker import Tracker

SIZE = {"height": HEIGHT, "width": WIDTH}


@cache
def seen(network, frame):
    """Return what a network sees in a frame of the clip; features do not change."""
    return Tracker(network, **SIZE).see(picture(frame))


def around(name, frame, mask):
    return Prompt(name, frame, box=Box(*box_around(mask)))


def answer(tracker, frame, features, prompt):
    """Prompt a frame and return the object's mask."""
    memory = tracker.prompt(features, prompt)
    return tracker.masks(frame, {prompt.object: memory})[0]


def step(tracker, frame, features, names, *, reverse=False):
    """Track objects on a frame and return their masks by name."""
    memories = dict(zip(names, tracker.step(frame, features, names, reverse=reverse), strict=True))
    return dict(zip(names, tracker.masks(frame, memories), strict=True))


def camera():
    """Yield frames without saying how many there will be."""
    yield from (picture(frame) for frame in range(FRAMES))


def test_a_stream_of_unknown_length_is_tracked_as_it_comes():
    tracker = Tracker(nano(), **SIZE, frame_count=None)
    seen = {}
    for frame, rgb in enumerate(camera()):
        features = tracker.see(rgb)
        if frame == 0:
            tracker.prompt(features, around("disc", 0, disc(0)))
        if frame == 3:  # a new object, while the first is being tracked
            tracker.prompt(features, around("ball", 3, ball(3)))
        if frame == 6:
            tracker.remove("disc")
        seen[frame] = step(tracker, frame, features, tracker.objects)
    assert [tuple(masks) for masks in seen.values()] == [("disc",)] * 3 + [("disc", "ball")] * 3 + [("ball",)] * 2
    for frame, masks in seen.items():
        for name, mask in masks.items():
            assert iou(mask, {"disc": disc, "ball": ball}[name](frame)) > 0.85


def test_a_prompted_frame_keeps_its_answer_when_tracking_steps_on_it():
    tracker = Tracker(tiny(), **SIZE)
    features = seen(tiny(), 0)
    mask = answer(tracker, 0, features, around("disc", 0, disc(0)))
    assert np.array_equal(step(tracker, 0, features, ["disc"])["disc"], mask)


def run(network, prompts, names, *, frames=6, reverse=False):
    """Track the named objects of all prompts and return each frame's logits and scores by name."""
    tracker = Tracker(network, **SIZE, frame_count=frames)
    pictures = [seen(network, frame) for frame in range(frames)]
    for prompt in prompts:
        if prompt.object in names:
            tracker.prompt(pictures[prompt.frame], prompt)
    order = range(frames - 1, -1, -1) if reverse else range(frames)
    found = {name: [] for name in names}
    for frame in order:
        for name, memory in zip(names, tracker.step(frame, pictures[frame], names, reverse=reverse), strict=True):
            found[name].append((memory.low_resolution(), memory.score, memory.iou))
    return found


MIX = (
    around("disc", 0, disc(0)),
    Prompt("disc", 3, clicks=(Click(46, 30), Click(10, 10, False))),
    Prompt("ball", 2, mask=ball(2)),
    Prompt("corner", 4, clicks=(Click(5, 5),)),
    around("both", 1, disc(1) | ball(1)),
)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("network", [nano, tiny])
def test_objects_together_get_the_answers_they_get_alone(network, reverse):
    names = ["disc", "ball", "corner", "both"]
    together = run(network(), MIX, names, reverse=reverse)
    for name in names:
        alone = run(network(), MIX, [name], reverse=reverse)[name]
        for (logits, *scores), (expected, *expected_scores) in zip(together[name], alone, strict=True):
            assert np.abs(logits - expected).max() < 1e-4
            assert scores == pytest.approx(expected_scores, abs=1e-4)


@cache
def hearing():
    """Return SAM 2.1 tiny on 128 pixels with random weights that make much of their memory."""
    network = Network(sam2_config("tiny", image_px=128))
    network.load_state_dict(amplified({name: tensor.shape for name, tensor in network.state_dict().items()}))
    return network.eval().requires_grad_(False)


@dataclass(frozen=True)
class Thing:
    """One object of a mix: what is said of it, by frame, and when it is removed."""

    said: dict[int, str]
    removed: int | None

    def prompt(self, name, frame):
        """Return a prompt of the kind that is said on a frame, a little elsewhere for each frame and object."""
        kind, shift = self.said[frame], 3.0 * (frame + 2 * int(name))
        clicks = tuple(Click(20 + shift + 9 * i, 30 + 5 * i, i != 2) for i in range(3))
        return {
            "a click": Prompt(name, frame, clicks=clicks[:1]),
            "three clicks": Prompt(name, frame, clicks=clicks),
            "a box": Prompt(name, frame, box=Box(10 + shift, 20, 60 + shift, 70)),
            "a box and a click": Prompt(name, frame, clicks=clicks[:1], box=Box(10 + shift, 20, 60 + shift, 70)),
            "a mask": Prompt(name, frame, mask=np.roll(disc(frame), int(shift), axis=1)),
            "an empty mask": Prompt(name, frame, mask=np.zeros((HEIGHT, WIDTH), bool)),
        }[kind]


KINDS = ("a click", "three clicks", "a box", "a box and a click", "a mask", "an empty mask")
things = st.builds(
    Thing,
    st.dictionaries(st.integers(0, FRAMES - 1), st.sampled_from(KINDS), min_size=1, max_size=2),
    st.none() | st.integers(1, FRAMES - 1),
)


def follow(mix, names, *, beforehand, reverse):
    """Pass over the clip with some of a mix's objects and return logits and scores by frame and name.

    Prompts are given `beforehand`, so that later ones lie in the future, or when the pass comes to their frame.
    """
    tracker = Tracker(hearing(), **SIZE, frame_count=FRAMES)
    pictures = [seen(hearing(), frame) for frame in range(FRAMES)]
    found = {}
    if beforehand:
        for name in names:
            for frame in mix[name].said:
                tracker.prompt(pictures[frame], mix[name].prompt(name, frame))
    for time, frame in enumerate(range(FRAMES)[:: -1 if reverse else 1]):
        for name in names:
            if not beforehand and frame in mix[name].said:
                tracker.prompt(pictures[frame], mix[name].prompt(name, frame))
            if mix[name].removed == time:
                tracker.remove(name)
        memories = tracker.step(frame, pictures[frame], tracker.objects, reverse=reverse)
        for name, memory in zip(tracker.objects, memories, strict=True):
            found[frame, name] = (memory.low_resolution(), memory.score, memory.iou)
    return found


@settings(max_examples=15, deadline=None, derandomize=True, phases=[Phase.generate])  # an example takes a second
@given(st.lists(things, min_size=2, max_size=6), st.booleans(), st.booleans())
def test_any_mix_of_objects_gets_together_what_each_gets_alone(mix, beforehand, reverse):
    mix = {str(i): thing for i, thing in enumerate(mix)}
    with pytest.MonkeyPatch.context() as patch:
        # Sums of a batch may differ in the last bit, and rounded memories would make more of it.
        patch.setattr("masklet.tracker.MAP_DTYPE", torch.float32)
        together = follow(mix, list(mix), beforehand=beforehand, reverse=reverse)
        alone = {}
        for name in mix:
            alone |= follow(mix, [name], beforehand=beforehand, reverse=reverse)
    assert together.keys() == alone.keys()
    for key, (logits, *scores) in together.items():
        expected, *expected_scores = alone[key]
        assert np.abs(logits - expected).max() < 1e-4
        assert scores == pytest.approx(expected_scores, abs=1e-4)


def test_many_objects_go_through_the_network_a_few_at_a_time(monkeypatch):
    sizes = []
    answer = Network.answer

    def counting(network, image, *rest):
        sizes.append(len(image))
        return answer(network, image, *rest)

    def tracked():
        tracker = Tracker(nano(), **SIZE)
        for i, mask in enumerate([disc(0), ball(0), disc(0) | ball(0)]):
            tracker.prompt(seen(nano(), 0), Prompt(str(i), 0, mask=mask))
        sizes.clear()
        return step(tracker, 1, seen(nano(), 1), tracker.objects)

    monkeypatch.setattr(Network, "answer", counting)
    together = tracked()
    assert sizes == [3]
    monkeypatch.setattr("masklet.tracker.AT_ONCE", 2)
    apart = tracked()
    assert sizes == [2, 1]
    assert all(iou(apart[name], together[name]) > 0.999 for name in together)


class NoDoublePrecision(TorchDispatchMode):
    """Apple's GPUs have none; none of them is here."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for one in out if isinstance(out, tuple | list) else [out]:
            if isinstance(one, torch.Tensor) and one.dtype == torch.float64:
                raise TypeError(f"{func} makes double precision")
        return out


@pytest.mark.parametrize("network", [nano, tiny], ids=["nano", "sam2"])
def test_no_double_precision_is_needed_beside_the_target_model_which_is_learned_on_the_processor(network, monkeypatch):
    for module in ("answers", "model.network"):
        monkeypatch.setattr(f"masklet.{module}.learned", lambda early, mask: None)
    tracker = Tracker(network(), **SIZE)
    with NoDoublePrecision():
        tracker.prompt(tracker.see(picture(0)), around("ball", 0, ball(0)))
        tracker.prompt(tracker.see(picture(0)), Prompt("disc", 0, mask=disc(0)))
        step(tracker, 1, tracker.see(picture(1)), tracker.objects)


def test_removing_an_object_changes_nothing_for_the_others():
    network, names = tiny(), ["disc", "ball"]
    tracker = Tracker(network, **SIZE, frame_count=6)
    pictures = [seen(network, frame) for frame in range(6)]
    tracker.prompt(pictures[0], MIX[0])
    tracker.prompt(pictures[0], around("ball", 0, ball(0)))
    for frame in (1, 2):
        tracker.step(frame, pictures[frame], names)
    tracker.remove("ball")
    assert tracker.objects == ("disc",)
    late = [tracker.step(frame, pictures[frame], ["disc"])[0].low_resolution() for frame in (3, 4, 5)]
    alone = run(network, MIX[:1], ["disc"])["disc"]
    for logits, (expected, *_) in zip(late, alone[3:], strict=True):
        assert np.abs(logits - expected).max() < 1e-4


def test_a_correction_ahead_waits_and_is_applied_with_memory():
    network = nano(448)
    tracker = Tracker(network, **SIZE)
    pictures = [seen(network, frame) for frame in range(3)]
    tracker.prompt(pictures[0], around("both", 0, disc(0) | ball(0)))
    before = step(tracker, 1, pictures[1], ["both"])["both"]
    assert tracker.prompt(pictures[2], Prompt("both", 2, clicks=(Click(*middle(ball(2)), False),))) is None
    assert 2 not in tracker.bank("both").prompted
    after = step(tracker, 2, pictures[2], ["both"])["both"]
    assert before[ball(1)].mean() > 0.9
    assert after[ball(2)].mean() < 0.1
    assert after[disc(2)].mean() > 0.9
    assert 2 in tracker.bank("both").prompted


def test_a_persons_own_mask_comes_back_to_the_pixel():
    tracker = Tracker(nano(), **SIZE)
    checked = np.indices((HEIGHT, WIDTH)).sum(0) % 2 == 0
    mask = answer(tracker, 0, seen(nano(), 0), Prompt("pattern", 0, mask=checked))
    assert np.array_equal(mask, checked)


def test_a_negative_click_takes_away_what_a_mask_has_too_much():
    network = nano(448)
    tracker = Tracker(network, **SIZE)
    answer(tracker, 0, seen(network, 0), Prompt("disc", 0, mask=disc(0) | ball(0)))
    mask = answer(tracker, 0, seen(network, 0), Prompt("disc", 0, clicks=(Click(*middle(ball(0)), False),)))
    assert iou(mask, disc(0)) > 0.9


@pytest.mark.parametrize("image_px", [224, 448])
def test_one_click_on_a_spot_means_the_thing_that_it_is_on(image_px):
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    thing = ((x - 64) / 22) ** 2 + ((y - 52) / 30) ** 2 < 1
    rgb = np.full((HEIGHT, WIDTH, 3), (64, 66, 115), np.uint8)
    rgb[thing] = 220, 190, 60
    rgb[(x - 64) ** 2 + (y - 52) ** 2 < 8**2] = 170, 60, 40
    tracker = Tracker(nano(image_px), **SIZE)
    mask = answer(tracker, 0, tracker.see(rgb), Prompt("thing", 0, clicks=(Click(64.5, 52.5, True),)))
    assert iou(mask, thing) > 0.9


def test_a_withdrawn_prompt_conditions_nothing():
    tracker = Tracker(tiny(), **SIZE, frame_count=6)
    pictures = [seen(tiny(), frame) for frame in range(6)]
    for prompt in MIX[:2]:
        tracker.prompt(pictures[prompt.frame], prompt)
    tracker.withdraw("disc", 3)
    found = [tracker.step(frame, pictures[frame], ["disc"])[0].low_resolution() for frame in range(6)]
    for logits, (expected, *_) in zip(found, run(tiny(), MIX[:1], ["disc"])["disc"], strict=True):
        assert np.array_equal(logits, expected)


@pytest.mark.parametrize(
    "said",
    [Prompt("disc", 2, clicks=(Click(46, 30, False),)), Prompt("disc", 2, mask=disc(2))],
    ids=["a correction that waits", "a mask"],
)
def test_what_is_withdrawn_before_tracking_gets_there_leaves_no_trace(said):
    tracker = Tracker(tiny(), **SIZE)
    for prompt in (MIX[0], said):
        tracker.prompt(seen(tiny(), prompt.frame), prompt)
    tracker.withdraw("disc", 2)
    masks = [step(tracker, frame, seen(tiny(), frame), ["disc"])["disc"] for frame in range(3)]
    assert list(tracker.bank("disc").prompted) == [0]
    assert not np.array_equal(masks[2], disc(2))


def test_a_long_stream_keeps_a_bounded_number_of_memories():
    tracker = Tracker(tiny(), **SIZE)
    features = seen(tiny(), 0)
    tracker.prompt(features, MIX[0])
    for frame in range(1, 40):
        tracker.step(frame, features, ["disc"])
        assert len(tracker.bank("disc").recent) <= 15
    assert len([m for m in tracker.bank("disc").recent.values() if m.map is not None]) == 7


def test_a_frame_of_another_size_is_refused():
    tracker = Tracker(tiny(), **SIZE)
    with pytest.raises(BadPrompt, match=f"a frame is 64x48, but this tracker was made for {WIDTH}x{HEIGHT}"):
        tracker.see(np.zeros((48, 64, 3), np.uint8))


@pytest.mark.parametrize(
    ("network", "height", "width", "input_hw"),
    [
        (nano, 720, 1280, (128, 224)),  # nano keeps the shape, to a multiple of 16
        (nano, 1280, 720, (224, 128)),
        (nano, 100, 100, (224, 224)),
        (nano, 1, 4000, (16, 224)),
        (tiny, 720, 1280, (64, 64)),  # SAM 2 squashes
        (tiny, 3, 5, (64, 64)),
    ],
)
def test_coordinates_are_scaled_from_the_source_to_the_networks_input(network, height, width, input_hw):
    geometry = Geometry.of(network(), height=height, width=width)
    assert geometry.input_hw == input_hw
    assert geometry.scale([(0, 0), (width / 2, height / 4), (width, height)]) == [
        (0, 0),
        (input_hw[1] / 2, input_hw[0] / 4),
        (input_hw[1], input_hw[0]),
    ]


def test_bfloat16_finds_the_same_objects():
    network = Network(nano().config)
    network.load_state_dict(nano().state_dict())
    tracker = Tracker(network.to(torch.bfloat16).eval(), **SIZE)
    tracker.prompt(tracker.see(picture(0)), MIX[0])
    mask = step(tracker, 1, tracker.see(picture(1)), ["disc"])["disc"]
    assert iou(mask, disc(1)) > 0.85
