"""The parity tests hear what they should hear: a small change of the memory path, or one rule bent, must be noticed.

With plain random weights a tracker with wrong memory rules differs from the right one by a millionth. Every test here
changes masklet in one respect and requires it to leave Meta's predictor by more than the tolerance of the parity tests.
"""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import masklet.tracker
from masklet.memory import PROMPTED_SLOT, MemoryBank
from masklet.model import memory_attention, network
from masklet.model.network import MAPS, Network, Recollection
from masklet.tracker import Tracker

from .amplify import shaken
from .answers import TOLERANCE, compare
from .scenes import SCENARIOS
from .test_clips import EXACT, HOW, ODD
from .ties import CELLS, FULL, Ties

LAYERS = range(4)
PARTS = (
    *(f"{attention}.{p}_proj" for attention in ("self_attn", "cross_attn_image") for p in ("q", "k", "v", "out")),
    *("linear1", "linear2", "norm1", "norm2", "norm3"),
)
ATTENTION = [
    # Each part of some layer always, of every layer when everything is asked for.
    pytest.param(f"memory_attention.layers.{i}.{part}", marks=[] if i == n % 4 else [pytest.mark.full])
    for i in LAYERS
    for n, part in enumerate(PARTS)
]
ENCODER = [
    *(f"memory_encoder.mask_downsampler.encoder.{i}" for i in (0, 1, 3, 4, 6, 7, 9, 10, 12)),
    "memory_encoder.pix_feat_proj",
    *(
        f"memory_encoder.fuser.layers.{i}.{part}"
        for i in range(2)
        for part in ("dwconv", "norm", "pwconv1", "pwconv2", "gamma")
    ),
    "memory_encoder.out_proj",
]
SLOTS = [f"maskmem_tpos_enc[{slot}]" for slot in range(MAPS)]
REST = [
    "memory_attention.norm",
    *(f"obj_ptr_proj.layers.{i}" for i in range(3)),
    "obj_ptr_tpos_proj",
    "no_obj_ptr",
    "no_obj_embed_spatial",
    "no_mem_embed",
    "mask_downsample",
]
SCENE = {"mask_downsample": "a mask"}
"""What is heard only where it takes part; everything else in a clip of two objects, both hidden for a while."""
SHARPLY = {"mask_downsample": (HOW["float32 memory"], EXACT)}
"""What moves the logits by less than the tolerance of rounded memories is noticed with exact ones."""
USUALLY = (HOW["bfloat16 memory"], TOLERANCE)
"""With holes left open: one that opens or closes would count for more than what is to be heard."""


@pytest.mark.parametrize("part", ATTENTION + ENCODER + SLOTS + REST)
def test_ten_per_cent_of_any_part_of_the_memory_path_is_noticed(pair, part):
    both, actions = pair(), SCENARIOS[SCENE.get(part, "two objects")]
    how, tolerance = SHARPLY.get(part, USUALLY)
    with shaken(both.ours.network, part):
        assert both.difference(actions, **how).logits > tolerance


def test_only_a_few_cells_of_a_binarised_mask_are_taken_for_ties():
    encoded = []

    class Encoder(nn.Module):
        def forward(self, features: None, mask: Tensor) -> None:
            encoded.append(mask)

    encoder = Encoder()
    Ties().settle_in(encoder)
    first, graded = -FULL * torch.ones(1, 1, 8, 8), torch.zeros(1, 1, 8, 8)
    near, far = first.clone(), first.clone()
    near.view(-1)[:CELLS] = FULL
    far.view(-1)[: CELLS + 1] = FULL
    for mask in (first, near, far, graded):
        encoder(None, mask)
    assert [torch.equal(a, b) for a, b in zip(encoded, (first, first, far, graded), strict=True)] == [True] * 4


def test_objects_disappear_and_come_back_in_the_clip(pair):
    scores = {
        frame: a.score for (_, frame, name), a in pair().expected(SCENARIOS["two objects"]).items() if name == "disc"
    }
    gone = [frame for frame, score in scores.items() if score <= 0]
    assert gone
    assert any(scores[frame] > 0 for frame in scores if frame > gone[0])


# Rules, each bent in one place

Patch = Callable[[pytest.MonkeyPatch], None]


def choosing(change: Callable[[MemoryBank, int, bool, Recollection], Recollection]) -> Patch:
    """Bend what a frame recollects."""
    right = MemoryBank.recollect

    def wrong(bank: MemoryBank, frame: int, *, reverse: bool, reach: int) -> Recollection:
        return change(bank, frame, reverse, right(bank, frame, reverse=reverse, reach=reach))

    return lambda patch: patch.setattr(MemoryBank, "recollect", wrong)


def by_count(bank, frame, reverse, said):
    """The last six maps there are, whatever their distance."""
    sign = -1 if reverse else 1
    passed = sorted((sign * (frame - f) for f in bank.recent if sign * (frame - f) > 0), reverse=True)[-6:]
    latest = [bank.recent[frame - sign * distance].map for distance in passed]
    maps = [m for m in said.maps if m[1] == PROMPTED_SLOT]
    return replace(said, maps=[*maps, *((m, len(latest) - 1 - i) for i, m in enumerate(latest))])


def without_the_future(bank, frame, reverse, said):
    """No maps of prompted frames that are still to come."""
    sign = -1 if reverse else 1
    ahead = [id(m.map) for f, m in bank.prompted.items() if sign * (frame - f) < 0]
    kept = [m for m in said.maps if id(m[0]) not in ahead]
    return replace(said, maps=kept)


def pointers_of_the_future(bank, frame, reverse, said):
    sign = -1 if reverse else 1
    ahead = [(m.pointer, sign * (frame - f)) for f, m in bank.prompted.items() if sign * (frame - f) < 0]
    return replace(said, pointers=[*said.pointers, *ahead])


def backwards_in_time(bank, frame, reverse, said):
    """Distances that are negative in a backward pass."""
    return replace(said, pointers=[(p, -d if reverse else d) for p, d in said.pointers])


def slots_reversed(bank, frame, reverse, said):
    return replace(said, maps=[(m, slot if slot == PROMPTED_SLOT else 5 - slot) for m, slot in said.maps])


def prompted_as_recent(bank, frame, reverse, said):
    """Prompted frames in the time slot of the oldest recent one."""
    return replace(said, maps=[(m, min(slot, PROMPTED_SLOT - 1)) for m, slot in said.maps])


def without_recent_pointers(bank, frame, reverse, said):
    prompted = [id(m.pointer) for m in bank.prompted.values()]
    return replace(said, pointers=[p for p in said.pointers if id(p[0]) in prompted])


def reach_of_a_long_clip(bank, frame, reverse, said):
    return replace(said, reach=15)


def encoding(change: Callable[..., Tensor]) -> Patch:
    """Bend how a mask becomes a memory map: `change(right, network, features, logits, scores, prompted)`."""
    right = Network.remember

    def wrong(built, features, logits, scores, *, prompted):
        return change(right, built, features, logits, scores, prompted)

    return lambda patch: patch.setattr(Network, "remember", wrong)


def never_binarised(right, built, features, logits, scores, prompted):
    return right(built, features, logits, scores, prompted=False)


def always_binarised(right, built, features, logits, scores, prompted):
    return right(built, features, logits, scores, prompted=True)


def always_filled(right, built, features, logits, scores, prompted):
    return right(built, features, masklet.tracker.fill_holes(logits), scores, prompted=prompted)


def absence_not_said(right, built, features, logits, scores, prompted):
    return right(built, features, logits, scores.abs() + 1, prompted=prompted)


def never_filled_for_memory(patch: pytest.MonkeyPatch) -> None:
    """Prompted frames are shown filled but remembered with their holes."""
    right = masklet.tracker.memories_of

    def wrong(built, features, decoded, frame, *, prompted, carried=None):
        maps = built.remember(features, decoded.logits, decoded.scores, prompted=prompted)
        answers = right(built, features, decoded, frame, prompted=prompted, carried=carried)
        return [replace(a, map=m.to(masklet.tracker.MAP_DTYPE)) for a, m in zip(answers, maps, strict=True)]

    patch.setattr(masklet.tracker, "memories_of", wrong)


def forgets_earlier_logits(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Tracker, "_dense", lambda self, logits: None)


def never_unstable(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(network, "stable", lambda logits: torch.ones(len(logits), dtype=torch.bool))


def absent_keeps_its_pointer(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Network, "_pointer", lambda self, token, present: self.obj_ptr_proj(token))


def decoding(**changed) -> Patch:
    """Bend how a decoder's answers are read: replace some of the four tokens' values before the choice."""
    right = Network._answers

    def wrong(self, image, fine, points, logits):
        answers = right(self, image, fine, points, logits)
        return replace(answers, **{name: change(answers) for name, change in changed.items()})

    return lambda patch: patch.setattr(Network, "_answers", wrong)


def pointer_of_the_best_reading(answers):
    """Give token 0 the place of the token with the best predicted IoU."""
    best = answers.ious[:, 1:].argmax(1) + 1
    tokens = answers.tokens.clone()
    tokens[:, 0] = answers.tokens[torch.arange(len(best)), best]
    return tokens


def single_pointer(answers):
    """Give every token what token 0 says."""
    return answers.tokens[:, :1].expand_as(answers.tokens)


def given_mask_sees_no_memory(patch: pytest.MonkeyPatch) -> None:
    """A mask's pointer comes from the picture plus the constant that stands for no memory."""
    right = Network.adopt

    def wrong(self, features, mask):
        return right(self, replace(features, image=self.recall(features, [Recollection((), (), 1)])), mask)

    patch.setattr(Network, "adopt", wrong)


def pointers_have_a_place(patch: pytest.MonkeyPatch) -> None:
    """Pointer tokens are rotated as if they lay at the picture's beginning."""

    def wrong(self, memory, rotary):
        keys = self.k_proj(memory.values + memory.codes)
        repeated = rotary.repeat(-(-len(keys) // len(rotary)), 1)[: len(keys)]
        return memory_attention.rotate(keys, repeated)

    patch.setattr(memory_attention.RotaryAttention, "_keys", wrong)


def settling_at_once(patch: pytest.MonkeyPatch) -> None:
    """Prompts become memories at once and not when the next pass starts."""
    right = Tracker.prompt

    def wrong(self, features, prompt, **how):
        answer = right(self, features, prompt, **how)
        self._tracks[prompt.object].settle()
        return answer

    patch.setattr(Tracker, "prompt", wrong)


RULES: dict[str, tuple[Patch, str]] = {
    "memories are chosen by distance, not count": (choosing(by_count), "two prompted frames"),
    "maps of prompted frames to come take part": (choosing(without_the_future), "two prompted frames"),
    "pointers of prompted frames to come do not": (choosing(pointers_of_the_future), "two prompted frames"),
    "distances are positive backward too": (choosing(backwards_in_time), "backward"),
    "the latest frame has the first slot": (choosing(slots_reversed), "one click"),
    "prompted frames have a slot of their own": (choosing(prompted_as_recent), "one click"),
    "tracked frames give pointers": (choosing(without_recent_pointers), "one click"),
    "a short clip divides distances by its length": (choosing(reach_of_a_long_clip), "one click"),
    "a prompted mask is binarised": (encoding(never_binarised), "one click"),
    "a tracked mask is not": (encoding(always_binarised), "one click"),
    "a tracked mask is remembered with its holes": (encoding(always_filled), "one click"),
    "absence is written into the map": (encoding(absence_not_said), "one click"),
    "a prompted mask is remembered without holes": (never_filled_for_memory, "a mask"),
    "earlier logits are a prompt": (forgets_earlier_logits, "three clicks one after another"),
    "an unstable mask gives way to the best reading": (never_unstable, "a box"),
    "an absent object has a pointer of its own": (absent_keeps_its_pointer, "one click"),
    "an unambiguous prompt's pointer is of token 0": (decoding(tokens=pointer_of_the_best_reading), "a box"),
    "an ambiguous prompt's pointer is of the reading taken": (decoding(tokens=single_pointer), "one click"),
    "a mask's pointer sees the bare picture": (given_mask_sees_no_memory, "a mask"),
    "pointers have no place in the picture": (pointers_have_a_place, "one click"),
    "a prompt is remembered when the next pass starts": (settling_at_once, "two corrections before a pass"),
}


@pytest.mark.parametrize("rule", RULES)
def test_bending_one_rule_is_noticed(pair, rule):
    both = pair()
    bend, scenario = RULES[rule]
    holes = "holes" in rule
    with pytest.MonkeyPatch.context() as patch:
        bend(patch)
        bent = both.ours.act(SCENARIOS[scenario], holes=holes)
    difference = compare(both.expected(SCENARIOS[scenario], holes=holes), bent)
    assert (difference.odd > ODD) if holes else (difference.logits > TOLERANCE), difference
