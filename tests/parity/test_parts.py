"""Each part of the network beside the same part of Meta's package: the same weights, the same inputs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from masklet.memory import Memory, MemoryBank, reach_of
from masklet.model.holes import fill_holes
from masklet.model.network import Features, Network, Points, normalise
from masklet.model.position import sine_map, sine_times

from .amplify import amplified, restored
from .ours import network
from .peers import HOLE_PX, REVISIONS, SIZES, label_8, official_predictor, pictures_as_input, quiet, require
from .scenes import clip

CLOSE = 2e-5
"""Of a part's largest value."""


def cases(image_px: int, always: Sequence[tuple[str, str]]) -> list[Any]:
    """Return every model, all but some of them only when everything is asked for."""
    return [
        pytest.param(
            (size, revision, image_px),
            id=f"{size} {revision} {image_px} px",
            marks=[] if (size, revision) in always else [pytest.mark.full],
        )
        for size, revision in product(SIZES, REVISIONS)
    ]


# Past the trunk all sizes are the same network, and revisions differ in memory alone.
TRUNKS = [*cases(256, [(size, "2.1") for size in SIZES]), *cases(1024, [("tiny", "2.1")])]
BEHIND = cases(256, [("tiny", "2.0"), ("tiny", "2.1")])
RELEASED = cases(1024, [("tiny", "2.1")])


@dataclass(frozen=True, eq=False)
class Parts:
    """Both networks, and what masklet's sees in a picture, which both are given."""

    official: Any
    ours: Network
    seen: Features

    @property
    def side(self) -> int:
        """Cells of a feature map's side."""
        return self.seen.image.shape[-1]

    def noise(self, *shape: int, seed: int, scale: float = 1.0) -> Tensor:
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale

    def pictures(self, count: int) -> Tensor:
        """Return what `count` objects would make of the picture, each a little different."""
        return self.seen.image + self.noise(count, *self.seen.image.shape[1:], seed=1, scale=0.5)

    def logits(self, count: int) -> Tensor:
        """Return smooth random masks of the low resolution, `[count, 1, 4h, 4w]`."""
        coarse = self.noise(count, 1, 8, 8, seed=2, scale=6.0)
        return functional.interpolate(coarse, (4 * self.side, 4 * self.side), mode="bicubic")


@pytest.fixture(scope="module", params=[*BEHIND, *RELEASED])
def parts(request) -> Parts:
    size, revision, image_px = request.param
    official = official_predictor(size, revision, image_px)
    weights = amplified({name: tensor.shape for name, tensor in official.state_dict().items()})
    official.load_state_dict(weights, strict=True)
    ours = network(size, revision, image_px, weights)
    with torch.inference_mode():
        return Parts(official, ours, ours.see(pictures_as_input(clip((0,)), image_px)))


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.inference_mode():
        yield


def check(ours: Tensor, official: Tensor) -> None:
    assert ours.shape == official.shape
    far = float((ours - official).abs().max())
    assert far <= CLOSE * float(official.abs().max()), f"{far} apart, largest value {float(official.abs().max())}"


def flat(maps: Tensor) -> Tensor:
    """Return `[b, c, h, w]` as the official `[h * w, b, c]`."""
    return maps.flatten(2).permute(2, 0, 1)


# The picture


@pytest.mark.parametrize("parts", TRUNKS, indirect=True, scope="module")
def test_trunk_and_neck_see_the_same(parts):
    pixels = pictures_as_input(clip((1,)), parts.official.image_size)
    official = parts.official.forward_image(pixels)
    ours = parts.ours.see(pixels)
    for one, other in zip((*ours.fine, ours.image), official["backbone_fpn"], strict=True):
        check(one, other)
    check(sine_map(parts.side, parts.side, 256, pixels.device)[None], official["vision_pos_enc"][-1])


# Prompts


@pytest.mark.parametrize("count", [1, 2, 5])
def test_points_of_every_meaning_become_the_same_tokens(parts, count):
    xy = torch.rand(5, count, 2, generator=torch.Generator().manual_seed(count)) * parts.official.image_size
    labels = (torch.arange(5 * count) % 5 - 1).view(5, count)
    sparse, _ = parts.official.sam_prompt_encoder(points=(xy, labels), boxes=None, masks=None)
    check(parts.ours.sam_prompt_encoder.points(xy, labels), sparse)


@pytest.mark.parametrize("given", [True, False])
def test_earlier_logits_or_none_become_the_same_dense_prompt(parts, given):
    logits = parts.logits(2) if given else None
    nowhere = (torch.zeros(2, 1, 2), -torch.ones(2, 1))
    _, dense = parts.official.sam_prompt_encoder(points=nowhere, boxes=None, masks=logits)
    check(parts.ours.sam_prompt_encoder.mask(logits, (parts.side, parts.side)).expand_as(dense), dense)


def test_cells_have_the_same_place(parts):
    official = parts.official.sam_prompt_encoder.get_dense_pe()
    check(parts.ours.sam_prompt_encoder.positions((parts.side, parts.side)), official)


# Masks


def test_the_decoder_says_the_same(parts):
    image, sparse = parts.pictures(2), parts.noise(2, 3, 256, seed=3)
    dense, codes = parts.noise(2, *image.shape[1:], seed=4), parts.official.sam_prompt_encoder.get_dense_pe()
    masks, ious, tokens, scores = parts.official.sam_mask_decoder.predict_masks(
        image, codes, sparse, dense, repeat_image=False, high_res_features=list(parts.seen.fine)
    )
    ours = parts.ours.sam_mask_decoder(image, codes, sparse, dense, parts.seen.fine)
    for one, other in ((ours.logits, masks), (ours.ious, ious), (ours.tokens, tokens), (ours.scores, scores)):
        check(one, other)


PROMPTS = {
    "nothing": (),
    "a click": (1,),
    "a click that says what it is not": (0,),
    "three clicks": (1, 0, 1),
    "a box": (2, 3),
    "a box and a click": (2, 3, 0),
}


@pytest.mark.parametrize("again", [False, True], ids=["at first", "with earlier logits"])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_an_answer_is_chosen_alike(parts, prompt, again):
    labels = torch.tensor([PROMPTS[prompt]] * 4, dtype=torch.int32)
    xy = torch.rand(4, labels.shape[1], 2, generator=torch.Generator().manual_seed(5)) * parts.official.image_size
    inputs = {"point_coords": xy, "point_labels": labels} if PROMPTS[prompt] else None
    image, logits = parts.pictures(4), parts.logits(4) if again else None
    fine = [f.expand(4, -1, -1, -1) for f in parts.seen.fine]

    def answer():
        several = parts.official._use_multimask(True, inputs)
        return parts.official._forward_sam_heads(image, inputs, logits, fine, multimask_output=several)

    with half_absent(parts, scores=answer()[-1]) as middle:
        _, _, ious, masks, _, pointers, scores = answer()
        ours = parts.ours.decode(image, parts.seen.fine, Points(xy, labels) if PROMPTS[prompt] else None, logits)
    assert [bool(score > 0) for score in scores].count(True) == 2
    check(ours.logits, masks)
    check(ours.ious, ious.amax(1))
    check(ours.pointers, pointers)
    check(ours.scores + middle, scores[:, 0] + middle)


@contextmanager
def half_absent(parts: Parts, scores: Tensor) -> Iterator[Tensor]:
    """Take the middle from the presence scores of both networks for a while, which makes half of the objects absent."""
    middle = scores.quantile(0.5)
    biases = [sam.sam_mask_decoder.pred_obj_score_head.layers[2].bias for sam in (parts.official, parts.ours)]
    with restored(biases):
        for bias in biases:
            bias.sub_(middle)
        yield middle


def test_a_given_mask_is_taken_alike(parts):
    side = parts.official.image_size
    mask = functional.interpolate(parts.logits(3), (side, side), mode="bilinear").gt(0).float()
    mask[2] = 0
    image = parts.seen.image.expand(3, -1, -1, -1)
    fine = [f.expand(3, -1, -1, -1) for f in parts.seen.fine]
    _, _, ious, masks, _, pointers, scores = parts.official._use_mask_as_output(image, fine, mask)
    ours = parts.ours.adopt(parts.seen, mask)
    check(ours.logits, masks)
    check(ours.ious, ious[:, 0])
    check(ours.pointers, pointers)
    check(ours.scores, scores[:, 0])


# Memory


@pytest.mark.parametrize("prompted", [True, False], ids=["prompted", "tracked"])
def test_a_mask_is_remembered_alike(parts, prompted):
    logits, scores = parts.logits(3), torch.tensor([4.0, -4.0, 0.0])
    side = parts.official.image_size
    image = parts.seen.image.expand(3, -1, -1, -1)
    official, places = parts.official._encode_new_memory(
        [flat(image)],
        [(parts.side, parts.side)],
        functional.interpolate(logits, (side, side), mode="bilinear"),
        scores[:, None],
        is_mask_from_pts=prompted,
    )
    check(parts.ours.remember(parts.seen, logits, scores, prompted=prompted), official)
    check(sine_map(parts.side, parts.side, 64, logits.device)[None].expand(3, -1, -1, -1), places[0])


HISTORIES = {
    "one prompt behind": ((0,), range(1, 5), 5, 14),
    "prompts on both sides": ((0, 4, 9), (1, 2, 3, 5, 6), 7, 14),
    "all prompts ahead": ((9, 12), (), 4, 14),
    "all prompts ahead, frames tracked": ((9,), (1, 2, 3), 4, 14),
    "a long clip": ((0, 3, 30), tuple(f for f in range(1, 26) if f != 3), 26, 40),
    "the frame itself is prompted": ((0, 6), (1, 2, 3, 4, 5), 6, 14),
    "holes in the past": ((2,), (3, 6, 7), 9, 14),
}
"""Prompted frames, tracked frames, the frame that remembers, and the clip's length."""


def remembered(parts: Parts, frames, offset: int) -> dict[int, tuple[Tensor, Tensor]]:
    """Return a random map and pointer for each frame."""
    side = parts.side
    return {f: (parts.noise(64, side, side, seed=2 * (f + offset)), parts.noise(256, seed=2 * f + 1)) for f in frames}


def check_recall(parts: Parts, history: str, *, reverse: bool) -> None:
    """Let both sides condition the picture on the same memories, chosen by each side's own rules."""
    prompted, tracked, frame, count = HISTORIES[history]
    if reverse:
        prompted, tracked, frame = (
            [count - 1 - f for f in prompted],
            [count - 1 - f for f in tracked],
            count - 1 - frame,
        )
    known = {True: remembered(parts, prompted, 0), False: remembered(parts, tracked, 50)}
    places = sine_map(parts.side, parts.side, 64, torch.device("cpu"))[None]
    stored = {
        kind: {
            f: {"maskmem_features": m[None], "maskmem_pos_enc": [places], "obj_ptr": p[None]}
            for f, (m, p) in known[is_prompted].items()
        }
        for kind, is_prompted in (("cond_frame_outputs", True), ("non_cond_frame_outputs", False))
    }
    official = parts.official._prepare_memory_conditioned_features(
        frame,
        False,
        [flat(parts.seen.image)],
        [flat(sine_map(parts.side, parts.side, 256, torch.device("cpu"))[None])],
        [(parts.side, parts.side)],
        stored,
        count,
        track_in_reverse=reverse,
    )
    bank = MemoryBank(unbounded=True)
    for is_prompted, memories in known.items():
        for f, (m, p) in memories.items():
            bank.keep(Memory(f, None, 1.0, 1.0, p, m), prompted=is_prompted)
    recollection = bank.recollect(frame, reverse=reverse, reach=reach_of(count))
    # Beside other objects, one of them without any memory, as a batch has it.
    others = [MemoryBank().recollect(0, reverse=False, reach=15), recollection]
    ours = parts.ours.recall(parts.seen, [recollection, *others])
    check(ours[:1], official)
    check(ours[2:], official)
    check(ours[1:2], parts.seen.image + parts.official.no_mem_embed.view(1, 256, 1, 1))


@pytest.mark.parametrize("parts", BEHIND, indirect=True, scope="module")
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("history", HISTORIES)
def test_a_frame_recalls_the_same(parts, history, reverse):
    check_recall(parts, history, reverse=reverse)


@pytest.mark.parametrize("parts", RELEASED, indirect=True, scope="module")
def test_a_frame_recalls_the_same_at_the_released_size(parts):
    check_recall(parts, "prompts on both sides", reverse=False)


def test_times_have_the_same_code():
    times = torch.tensor([-1.0, -0.2, 0.0, 1 / 15, 0.5, 1.0, 7 / 3])
    with quiet():
        official = require("sam2.modeling.sam2_utils").get_1d_sine_pe(times, dim=256)
    check(sine_times(times, 256), official)


# Holes


@pytest.mark.parametrize("density", [0.02, 0.1, 0.3, 0.5, 0.7])
def test_holes_are_filled_alike(density, monkeypatch):
    misc = require("sam2.utils.misc")
    monkeypatch.setattr(misc, "get_connected_components", label_8)
    rng = np.random.default_rng(int(100 * density))
    logits = torch.from_numpy(rng.normal(size=(3, 1, 64, 64)).astype(np.float32) + 3)
    logits[torch.from_numpy(rng.random(logits.shape) < density)] *= -1
    official = misc.fill_holes_in_mask_scores(logits, HOLE_PX)
    assert (official != logits).any()
    assert torch.equal(fill_holes(logits), official)


# Pictures


@pytest.mark.parametrize("side", [64, 256])
def test_a_picture_is_scaled_as_by_the_image_predictor(side):
    """Bilinear and antialiased where it shrinks."""
    picture = clip((0,))
    check(normalise(torch.from_numpy(picture[0]), size_hw=(side, side)), pictures_as_input(picture, side))


def test_a_picture_is_nearly_what_metas_video_loader_makes_of_it(tmp_path):
    """That one is bicubic, by PIL; so one prompt differs between Meta's own image and video predictors."""
    Image.fromarray(clip((0,))[0]).save(tmp_path / "0.png")
    pixels, height, width = require("sam2.utils.misc")._load_img_as_tensor(tmp_path / "0.png", 256)
    official = (pixels.float() - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor(
        [0.229, 0.224, 0.225]
    ).view(3, 1, 1)
    ours = normalise(torch.from_numpy(clip((0,))[0]), size_hw=(256, 256))[0]
    assert (height, width) == clip((0,)).shape[1:3]
    far = (ours - official).abs()
    assert 0.001 < float(far.mean()) < 0.1
