"""masklet beside `Sam2VideoModel` of transformers: the same weights under other names, whole clips, and where both
peers differ, the side that masklet takes.

Where it follows Meta's rules it must give masklet's answers. It never fills holes, so holes are left open here. Rules
of it that need no test because masklet has no such thing: a limit on prompted frames in attention (there it limits maps
and not pointers), streams that keep every frame, one session without removal of objects.
"""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch.nn import functional

from masklet.renaming import from_hugging_face, is_hugging_face, to_hugging_face

from .answers import TOLERANCE, Answers, Difference, compare
from .hugging import HuggingFace, load, video_model
from .pairs import Pair
from .peers import REVISIONS, SIZES
from .scenes import DISC, SCENARIOS, TO_AND_FRO, Say, Track
from .test_clips import ALL_MODELS, OTHERS, OVERLAP
from .test_sensitivity import forgets_earlier_logits

APART = 1e-2
"""Logits that differ by another rule differ by more than this."""
ALIKE = (
    "one click",
    "three clicks in one call",
    "a box",
    "a box and clicks",
    "two objects",
    "two prompted frames",
    "a late object",
    "an object after a pass",
    "backward",
    "forward, then backward",
    "backward with two objects",
)
BRIEFLY = ("two objects", "two prompted frames", "backward with two objects")


@pytest.fixture(scope="module")
def hugging() -> Callable[[Pair], HuggingFace]:
    """Build the third tracker beside a pair; the last one is kept."""
    kept: dict[str, HuggingFace] = {}

    def build(both: Pair) -> HuggingFace:
        if both.name not in kept:
            kept.clear()
            size, revision = both.name.split(",")[0].split()
            model = load(video_model(size, revision, both.official.pixels.shape[-1]), both.ours.network.state_dict())
            both.ties.settle_in(model.memory_encoder)
            kept[both.name] = HuggingFace(model, both.official.pixels, both.official.height, both.official.width)
        return kept[both.name]

    return build


def check(difference: Difference) -> None:
    """Compare all that this peer says; it gives out no predicted IoUs."""
    assert difference.logits <= TOLERANCE, difference
    assert difference.score <= TOLERANCE, difference
    assert difference.overlap >= OVERLAP, difference


def of_position(answers: Answers, position: int) -> Answers:
    """Return what one action of a scenario answered."""
    return {(0, frame, name): answer for (p, frame, name), answer in answers.items() if p == position}


# Names


@pytest.mark.parametrize("revision", REVISIONS)
@pytest.mark.parametrize("size", SIZES)
def test_every_tensor_goes_there_and_back(size, revision):
    """Both sides' own classes say which names there are; 0 may be missing and 0 left over."""
    from masklet.model.config import sam2_config
    from masklet.model.network import Network

    with torch.device("meta"):
        ours, theirs = Network(sam2_config(size, revision)).state_dict(), video_model(size, revision).state_dict()
    weights = {name: torch.full(tensor.shape, float(i)) for i, (name, tensor) in enumerate(ours.items())}
    renamed = to_hugging_face(weights)
    assert is_hugging_face(renamed)
    assert not is_hugging_face(weights)
    assert {name: tensor.shape for name, tensor in renamed.items()} == {n: t.shape for n, t in theirs.items()}
    back = from_hugging_face(renamed, ours)
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[name], weights[name]) for name in weights)


# Clips


@pytest.mark.parametrize("scenario", ALIKE)
def test_tiny_answers_as_transformers(pair, hugging, note, scenario):
    both = pair()
    check_as_transformers(both, hugging(both), note, scenario)


def check_as_transformers(both, theirs, note, scenario: str) -> None:
    difference = compare(theirs.act(SCENARIOS[scenario]), both.ours.act(SCENARIOS[scenario], holes=False))
    note(both.name, "transformers, bfloat16 memory", difference)
    check(difference)


@pytest.mark.full
@pytest.mark.parametrize(("size", "revision"), OTHERS)
@pytest.mark.parametrize("scenario", BRIEFLY)
def test_every_size_and_revision_answers_as_transformers(pair, hugging, note, size, revision, scenario):
    both = pair(size, revision)
    check_as_transformers(both, hugging(both), note, scenario)


@pytest.mark.full
@pytest.mark.parametrize(("size", "revision"), ALL_MODELS)
def test_transformers_at_the_released_size(pair, hugging, note, size, revision):
    both = pair(size, revision, 1024, times=TO_AND_FRO)
    check_as_transformers(both, hugging(both), note, "two objects")


def test_a_stream_is_answered_as_transformers_answers_one(pair, hugging):
    both, says = pair(), SCENARIOS["two objects"][:2]
    check(compare(hugging(both).stream(says), both.ours.stream(says, holes=False)))


# Where the peers differ


def test_prompted_masks_we_remember_them_as_meta_does(pair, hugging):
    """transformers remembers the mask in full resolution, Meta what is left of it at a quarter, enlarged and binarised;
    and takes its pointer from the best of three readings, Meta from the single answer."""
    both, actions = pair(), SCENARIOS["a mask"]
    theirs, metas = hugging(both), both.expected(actions, holes=False)
    assert compare(theirs.act(actions), metas).logits > APART
    check(compare(both.ours.act(actions, holes=False), metas))
    with pytest.MonkeyPatch.context() as patch:
        adopt, decode = theirs.model._use_mask_as_output, theirs.model._single_frame_forward

        def adopt_as_meta(*args):
            patch.setattr(theirs.model, "_single_frame_forward", partial(decode, multimask_output=False))
            out = adopt(*args)
            patch.setattr(theirs.model, "_single_frame_forward", decode)
            side = theirs.pixels.shape[-1]
            out.high_res_masks = functional.interpolate(out.pred_masks, (side, side), mode="bilinear")
            return out

        patch.setattr(theirs.model, "_use_mask_as_output", adopt_as_meta)
        check(compare(theirs.act(actions), metas))  # with these two rules there is no other difference


def test_a_second_click_we_show_it_the_mask_of_the_first_as_meta_does(pair, hugging):
    """transformers never gives earlier logits to a refinement."""
    both, actions = pair(), SCENARIOS["three clicks one after another"]
    theirs, metas = hugging(both).act(actions), both.expected(actions, holes=False)
    assert compare(of_position(theirs, 1), of_position(metas, 1)).logits > APART
    check(compare(both.ours.act(actions, holes=False), metas))
    with pytest.MonkeyPatch.context() as patch:
        forgets_earlier_logits(patch)
        check(compare(both.ours.act(actions, holes=False), theirs))


def test_a_correction_of_a_tracked_frame_we_keep_it_where_both_peers_lose_it(pair, hugging):
    both, actions = pair(), SCENARIOS["a correction after a pass"]
    first, last = 1, len(actions) - 1
    for lost in (hugging(both).act(actions), both.expected(actions)):
        assert compare(of_position(lost, first), of_position(lost, last)).logits == 0
    ours = both.ours.act(actions, official=False)
    assert compare(of_position(ours, first), of_position(ours, last)).logits > APART


def test_a_correction_of_the_first_frame_we_keep_it_as_transformers_does(pair, hugging):
    both, actions = pair(), SCENARIOS["a correction of the first frame"]
    first, last = 1, len(actions) - 1
    metas = both.expected(actions)
    assert compare(of_position(metas, first), of_position(metas, last)).logits == 0
    for kept in (hugging(both).act(actions), both.ours.act(actions, official=False)):
        assert compare(of_position(kept, first), of_position(kept, last)).logits > APART


def test_holes_we_fill_them_as_meta_does_with_its_extension(pair, hugging):
    both, actions = pair(), SCENARIOS["one click"]
    assert compare(hugging(both).act(actions), both.expected(actions)).logits > TOLERANCE
    check(compare(both.ours.act(actions), both.expected(actions)))


def test_a_short_clip_we_divide_by_its_length_if_it_is_known_as_both_peers_do(pair, hugging):
    """A stream cannot know its length; transformers and masklet count it as long, so the two ways differ."""
    both, actions = pair(), SCENARIOS["one click"]
    theirs, says = hugging(both), actions[:1]
    known, unknown = of_position(theirs.act(actions), 1), theirs.stream(says)
    assert compare(known, unknown).logits > APART
    check(compare(of_position(both.ours.act(actions, holes=False), 1), known))
    check(compare(both.ours.stream(says, holes=False), unknown))


def test_a_new_object_in_a_stream_we_leave_the_others_memories_alone(pair, hugging):
    """transformers binarises every object's mask of a frame on which one is prompted."""
    both = pair()
    says = [Say("disc", 0, (DISC,)), Say("bar", 5, ((130.0, 66.0, 1),))]
    theirs, ours = hugging(both).stream(says), both.ours.stream(says, holes=False)
    alone = both.ours.stream(says[:1], holes=False)
    discs = {key: answer for key, answer in ours.items() if key[2] == "disc"}
    assert compare(discs, alone).logits <= 1e-4
    until = {key: answer for key, answer in theirs.items() if key[1] <= 5}
    check(compare(until, {key: ours[key] for key in until}))
    after = {key: answer for key, answer in theirs.items() if key[1] > 5 and key[2] == "disc"}
    assert compare(after, {key: ours[key] for key in after}).logits > APART


@pytest.mark.parametrize(("order", "agrees"), [(("bar", "disc"), True), (("disc", "bar"), False)])
def test_a_prompt_inside_a_backward_pass_we_leave_the_others_going_backward(pair, hugging, order, agrees):
    """In transformers an object's first prompt turns round all objects that come after it on that frame."""
    both = pair()
    theirs, bar = hugging(both), Say("bar", 11, ((106.0, 83.0, 1),))
    session = theirs._session(theirs.pixels)
    for name in order:
        session.obj_id_to_idx(name)
    theirs._say(session, Say("disc", 11, ((93.0, 68.0, 1),)))
    theirs._say(session, bar)
    for frame in range(11, 5, -1):  # the bar is hidden on 9 and 8, where all answers are alike
        if frame == 6:
            theirs._say(session, Say("disc", 6, ((78.0, 68.0, 1),)))
            session.frames_tracked_per_obj[session.obj_id_to_idx("disc")].clear()  # a first prompt
        out = theirs._call(session, frame_idx=frame, reverse=True)
    row = out.object_ids.index("bar")
    answer = theirs._answer(out.pred_masks[row], out.object_score_logits[row])
    ours = both.ours.act((bar, Track(reverse=True)), holes=False)[1, 6, "bar"]
    apart = float((answer.logits - ours.logits).abs().max())
    assert apart <= TOLERANCE if agrees else apart > APART
