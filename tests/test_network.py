"""The network by itself: what its four verbs promise whatever the weights."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from masklet.model.attention import KEY_BLOCK, QUERY_BLOCK, Attention, attend_in_blocks, attend_one_head
from masklet.model.config import HIERA, NANO, sam2_config
from masklet.model.hiera import join_windows, split_windows
from masklet.model.layers import LayerNorm2d, resize
from masklet.model.mask_decoder import Answers, stable
from masklet.model.matching import evidence
from masklet.model.memory_attention import RotaryAttention, Tokens
from masklet.model.network import ABSENT, CERTAIN, MAPS, Features, Network, Points, Recollection, normalise
from masklet.model.position import rotary_map

SIDE = 64
CELLS = SIDE // 16


@cache
def built(revision="2.1"):
    """Return tiny with random weights, none of them at the constant it starts from."""
    torch.manual_seed(11)
    network = Network(sam2_config("tiny", revision, SIDE)).eval().requires_grad_(False)
    for parameter in network.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.02)
    return network


@cache
def seen(revision="2.1"):
    return built(revision).see(noise(1, 3, SIDE, SIDE))


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def pictures(count):
    """Return what several objects make of one picture."""
    return seen().image + noise(count, 256, CELLS, CELLS, seed=1)


def clicks(*labels, count=1):
    xy = torch.rand(count, len(labels), 2, generator=torch.Generator().manual_seed(2)) * SIDE
    return Points(xy, torch.tensor([labels] * count))


def decode(image, points=None, logits=None):
    return built().decode(image, seen().fine, points, logits)


def rows(decoded, which):
    return [t[which] for t in (decoded.logits, decoded.ious, decoded.scores, decoded.pointers)]


def same(first, second, *, within=1e-5):
    return all(torch.allclose(a, b, atol=within, rtol=1e-5) for a, b in zip(first, second, strict=True))


# The family


@pytest.mark.parametrize(("size", "millions"), [("tiny", 38.9), ("small", 46.0), ("base-plus", 80.8), ("large", 224.4)])
def test_each_size_has_as_many_parameters_as_published(size, millions):
    with torch.device("meta"):
        network = Network(sam2_config(size, "2.0"))
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)


def test_revision_2_1_adds_two_parts_and_changes_nothing_else():
    with torch.device("meta"):
        old, new = (dict(Network(sam2_config("tiny", r)).named_parameters()) for r in ("2.0", "2.1"))
    assert new.keys() - old.keys() == {"no_obj_embed_spatial", "obj_ptr_tpos_proj.weight", "obj_ptr_tpos_proj.bias"}
    assert {n: p.shape for n, p in old.items()} == {n: p.shape for n, p in new.items() if n in old}


@pytest.mark.parametrize("size", HIERA)
def test_a_picture_is_seen_at_three_strides(size):
    with torch.device("meta"):
        network = Network(sam2_config(size))
        features = network.see(torch.empty(1, 3, 128, 192))
    assert features.size_hw == (8, 12)
    assert [tuple(f.shape) for f in (features.image, *features.fine)] == [
        (1, 256, 8, 12),
        (1, 32, 32, 48),
        (1, 64, 16, 24),
    ]


def test_nano_sees_one_map_of_any_shape():
    with torch.device("meta"):
        features = Network(NANO).see(torch.empty(1, 3, 432, 768))
    assert features.image.shape == (1, 256, 27, 48)
    assert features.fine is None


# See


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.integers(1, 20), st.integers(1, 20), st.integers(1, 9))
def test_windows_put_together_are_the_map_they_were_cut_from(batch, height, width, side):
    x = noise(batch, height, width, 5)
    windows = split_windows(x, side)
    assert windows.shape == (batch * -(-height // side) * -(-width // side), side, side, 5)
    assert torch.equal(join_windows(windows, side, x.shape), x)


def test_a_window_is_a_piece_of_the_map():
    x = noise(1, 6, 9, 2)
    assert torch.equal(split_windows(x, 3)[4], x[0, 3:6, 3:6])


def test_norm_over_channels_is_per_cell():
    norm = LayerNorm2d(8)
    x = noise(2, 8, 3, 4) * 5 + 2
    out = norm(x)
    assert torch.allclose(out.mean(1), torch.zeros(2, 3, 4), atol=1e-5)
    assert torch.allclose(out.var(1, unbiased=False), torch.ones(2, 3, 4), atol=1e-3)


def test_a_picture_of_the_mean_colour_is_nothing_and_white_is_the_brightest():
    mean = (torch.tensor([0.485, 0.456, 0.406]) * 255).round().to(torch.uint8)
    grey = normalise(mean.expand(10, 12, 3), size_hw=(SIDE, SIDE))
    white = normalise(torch.full((10, 12, 3), 255, dtype=torch.uint8), size_hw=(SIDE, SIDE))
    assert grey.shape == (1, 3, SIDE, SIDE)
    assert float(grey.abs().max()) < 0.01
    assert white[0, :, 0, 0].tolist() == pytest.approx([2.2489, 2.4286, 2.64], abs=1e-3)


@pytest.mark.parametrize("height", [64, 16], ids=["both sides", "one side"])
def test_shrinking_averages_and_does_not_pick(height):
    stripes = (torch.arange(64) + 1) % 4 // 2 * 255  # two of four columns are white: those in the middle
    small, grey = (
        normalise(columns.to(torch.uint8)[None, :, None].expand(height, -1, 3), size_hw=(16, 16))
        for columns in (stripes, torch.full((64,), 127))
    )
    assert torch.allclose(small[..., 1:-1], grey[..., 1:-1], atol=0.05)


# Decode


@pytest.mark.parametrize("labels", [(1,), (0, 1, 1), (2, 3)])
@pytest.mark.parametrize("again", [False, True])
def test_objects_of_a_batch_do_not_see_each_other(labels, again):
    image, points = pictures(5), clicks(*labels, count=5)
    logits = noise(5, 1, 4 * CELLS, 4 * CELLS, seed=3) * 8 if again else None
    together = decode(image, points, logits)
    for i in range(5):
        one = slice(i, i + 1)
        alone = decode(image[one], Points(points.xy[one], points.labels[one]), None if logits is None else logits[one])
        assert same(rows(together, one), rows(alone, slice(None)))


def test_padding_points_do_not_pass_for_one_click():
    """One click is ambiguous whatever else is in the batch; so tracked objects and prompted ones are not mixed."""
    one, padded = decode(pictures(1), clicks(1)), decode(pictures(1), clicks(1, -1))
    assert not same(rows(one, slice(None)), rows(padded, slice(None)))


def test_the_order_of_clicks_does_not_matter():
    points = clicks(1, 0, 1, count=3)
    turned = Points(points.xy.flip(1), points.labels.flip(1))
    assert same(rows(decode(pictures(3), points), slice(None)), rows(decode(pictures(3), turned), slice(None)))


@pytest.mark.parametrize(("labels", "chosen"), [(None, "best"), ((1,), "best"), ((1, 1), "single")])
def test_an_ambiguous_prompt_takes_the_reading_with_the_best_predicted_iou(labels, chosen, monkeypatch):
    image, points = pictures(4), None if labels is None else clicks(*labels, count=4)
    answers = built()._answers(image, seen().fine, points, None)
    present = replace(answers, scores=answers.scores.abs() + 1)
    monkeypatch.setattr(built(), "_answers", lambda *_: present)
    monkeypatch.setattr("masklet.model.network.stable", lambda logits: torch.ones(len(logits), dtype=torch.bool))
    decoded = decode(image, points)
    tokens = present.ious[:, 1:].argmax(1) + 1 if chosen == "best" else torch.zeros(4, dtype=torch.long)
    assert torch.equal(decoded.logits[:, 0], present.logits[torch.arange(4), tokens])
    assert torch.equal(decoded.ious, present.ious[torch.arange(4), tokens])
    assert torch.allclose(decoded.pointers, built().obj_ptr_proj(present.tokens[torch.arange(4), tokens]))


def test_an_unstable_single_answer_gives_way_but_the_pointer_stays(monkeypatch):
    answers = built()._answers(pictures(4), seen().fine, clicks(1, 1, count=4), None)
    present = replace(answers, scores=answers.scores.abs() + 1)
    monkeypatch.setattr(built(), "_answers", lambda *_: present)
    monkeypatch.setattr("masklet.model.network.stable", lambda logits: torch.zeros(len(logits), dtype=torch.bool))
    decoded = decode(pictures(4), clicks(1, 1, count=4))
    best = present.ious[:, 1:].argmax(1) + 1
    assert torch.equal(decoded.logits[:, 0], present.logits[torch.arange(4), best])
    assert torch.allclose(decoded.pointers, built().obj_ptr_proj(present.tokens[:, 0]))


def test_an_absent_object_has_no_mask_and_one_pointer_for_all(monkeypatch):
    answers = built()._answers(pictures(3), seen().fine, None, None)
    monkeypatch.setattr(built(), "_answers", lambda *_: replace(answers, scores=torch.tensor([[1.0], [0.0], [-2.0]])))
    decoded = decode(pictures(3))
    assert torch.equal(decoded.logits[1:], torch.full_like(decoded.logits[1:], ABSENT))
    assert float(decoded.logits[0].min()) > ABSENT
    assert torch.equal(decoded.pointers[1:], built().no_obj_ptr.expand(2, -1))
    assert not torch.equal(decoded.pointers[:1], built().no_obj_ptr)


@pytest.mark.parametrize(
    ("inner", "band", "expected"), [(98, 2, True), (97, 3, False), (0, 0, True), (0, 5, False), (200, 0, True)]
)
def test_a_mask_is_stable_if_its_border_is_a_fiftieth_of_it(inner, band, expected):
    plane = torch.full((1, 400), -1.0)
    plane[0, :inner] = 1.0
    plane[0, inner : inner + band] = 0.01
    assert bool(stable(plane.view(1, 20, 20))[0]) == expected


# Adopt


def test_a_given_mask_is_the_answer(monkeypatch):
    answers = built()._answers(pictures(2), seen().fine, None, None)
    monkeypatch.setattr(built(), "_answers", lambda *_: replace(answers, scores=torch.ones(2, 1)))
    mask = torch.zeros(2, 1, SIDE, SIDE)
    mask[0, :, 16:48, 16:48] = 1
    decoded = built().adopt(seen(), mask)
    assert decoded.logits.shape == (2, 1, 4 * CELLS, 4 * CELLS)
    assert decoded.logits[0, 0, 8, 8] == pytest.approx(CERTAIN)
    assert torch.allclose(decoded.logits[1], torch.full_like(decoded.logits[1], -CERTAIN))
    assert decoded.ious.tolist() == [1, 1]
    assert decoded.scores.tolist() == [CERTAIN, -CERTAIN]
    assert torch.equal(decoded.pointers[1:], built().no_obj_ptr)
    assert not torch.equal(decoded.pointers[:1], built().no_obj_ptr)


# Remember


def remember(logits, *, scores=None, prompted, revision="2.1"):
    scores = torch.ones(len(logits)) if scores is None else scores
    return built(revision).remember(seen(revision), logits, scores, prompted=prompted)


def test_of_a_prompted_mask_only_its_shape_is_remembered():
    logits = resize(noise(2, 1, 4, 4) * 5, (4 * CELLS, 4 * CELLS))
    assert torch.equal(remember(logits, prompted=True), remember(logits * 3, prompted=True))
    assert not torch.allclose(remember(logits, prompted=False), remember(logits * 3, prompted=False), atol=1e-4)


def test_masks_of_a_batch_are_remembered_apart():
    logits = noise(3, 1, 4 * CELLS, 4 * CELLS) * 5
    together = remember(logits, prompted=False)
    assert together.shape == (3, 64, CELLS, CELLS)
    for i in range(3):
        assert torch.allclose(together[i : i + 1], remember(logits[i : i + 1], prompted=False), atol=1e-5)


@pytest.mark.parametrize(("revision", "said"), [("2.1", True), ("2.0", False)])
def test_absence_is_written_into_the_map_since_revision_2_1(revision, said):
    logits = torch.full((1, 1, 4 * CELLS, 4 * CELLS), ABSENT)
    here, gone = (
        remember(logits, scores=torch.tensor([score]), prompted=False, revision=revision) for score in (1.0, -1.0)
    )
    if said:
        assert torch.allclose(gone - here, built().no_obj_embed_spatial[..., None, None].expand_as(here), atol=1e-6)
    else:
        assert torch.equal(here, gone)


# Recall


def maps(*slots, seed=5):
    return [(noise(64, CELLS, CELLS, seed=seed + slot), slot) for slot in slots]


def pointers(*distances):
    return [(noise(256, seed=50 + d), d) for d in distances]


NOTHING = Recollection((), (), 15)


def recall(*recollections, revision="2.1"):
    return built(revision).recall(seen(revision), recollections)


def test_an_object_without_memory_sees_the_picture_and_a_constant():
    expected = seen().image + built().no_mem_embed.view(1, 256, 1, 1)
    assert torch.equal(recall(NOTHING, NOTHING), expected.expand(2, -1, -1, -1))


def test_objects_with_and_without_memory_share_a_batch():
    some = [
        NOTHING,
        Recollection(maps(MAPS - 1), pointers(1), 15),
        Recollection(maps(MAPS - 1, 0, 3), pointers(4, 1, 2), 7),
        NOTHING,
        Recollection(maps(2), (), 15),
    ]
    together = recall(*some)
    for i, one in enumerate(some):
        assert torch.allclose(together[i : i + 1], recall(one), atol=1e-5)


def test_the_order_in_which_memories_are_told_does_not_matter():
    told = Recollection(maps(6, 0, 1), pointers(3, 1, 2), 15)
    turned = Recollection(told.maps[::-1], told.pointers[::-1], 15)
    assert torch.allclose(recall(told), recall(turned), atol=1e-5)


@pytest.mark.parametrize(
    "other",
    [
        Recollection(maps(6), pointers(1), 15),
        Recollection([(maps(6, 0)[0][0], 6), (maps(6, 0)[1][0], 1)], pointers(1), 15),
        Recollection(maps(6, 0), pointers(1), 14),
        Recollection(maps(6, 0), [(pointers(1)[0][0], 2)], 15),
        Recollection(maps(6, 0), [(pointers(1)[0][0], -1)], 15),
        Recollection(maps(6, 0), (), 15),
    ],
    ids=["a map less", "another slot", "a shorter clip", "longer ago", "from the future", "a pointer less"],
)
def test_everything_that_is_told_counts(other):
    assert not torch.allclose(recall(Recollection(maps(6, 0), pointers(1), 15)), recall(other), atol=1e-6)


def test_revision_2_0_knows_no_distance_of_pointers():
    near, far = (Recollection(maps(6), [(pointers(1)[0][0], d)], 15) for d in (1, 9))
    assert torch.equal(recall(near, revision="2.0"), recall(far, revision="2.0"))
    assert not torch.equal(recall(near), recall(far))


# Attention


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([1, 5, QUERY_BLOCK - 1, QUERY_BLOCK, QUERY_BLOCK + 1]),
    st.sampled_from([1, 7, KEY_BLOCK - 1, KEY_BLOCK, KEY_BLOCK + 1, 2 * KEY_BLOCK + 3]),
    st.sampled_from([0.01, 1.0, 30.0]),
)
def test_attention_in_blocks_is_attention(queries, keys, scale):
    q, k, v = noise(queries, 16) * scale, noise(keys, 16, seed=1) * scale, noise(keys, 4, seed=2)
    expected = functional.scaled_dot_product_attention(q[None], k[None], v[None])[0]
    assert torch.allclose(attend_in_blocks(q, k, v), expected, atol=1e-4 if scale == 30 else 1e-5)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_attention_to_a_long_memory_is_as_exact_in_half_precision_as_half_precision_is(kind):
    q, k, v = (torch.randn(n, c).to(kind) for n, c in ((8, 256), (20_000, 256), (20_000, 64)))
    exact = torch.softmax(q.double() @ k.double().T / 16, dim=1) @ v.double()
    with torch.inference_mode():
        error = (attend_one_head(q, k, v).double() - exact).norm() / exact.norm()
    assert error < 0.005


def test_looking_back_is_attention_to_projected_memories():
    """The values are projected after the weighted sum and not before: the same, for a quarter of the product."""
    attention = RotaryAttention(256, key_width=64, inner=256).requires_grad_(False)
    rotary = rotary_map(CELLS, CELLS, 256, torch.device("cpu"))
    cells = CELLS * CELLS
    memory = Tokens(noise(2 * cells + 8, 64), noise(2 * cells + 8, 64, seed=1), pointers=8)
    x = noise(1, cells, 256, seed=2)
    looked = attention.look_back(x, [memory], rotary)
    plain = Attention.attend(
        attention,
        torch.view_as_real(torch.view_as_complex(attention.q_proj(x).unflatten(-1, (-1, 2))) * rotary).flatten(-2),
        attention._keys(memory, rotary)[None],
        attention.v_proj(memory.values)[None],
    )
    assert torch.allclose(looked, plain, atol=1e-5)


def test_pointers_have_no_place_and_are_not_rotated():
    attention = RotaryAttention(256, key_width=64, inner=256).requires_grad_(False)
    rotary = rotary_map(CELLS, CELLS, 256, torch.device("cpu"))
    memory = Tokens(noise(CELLS * CELLS + 4, 64), torch.zeros(CELLS * CELLS + 4, 64), pointers=4)
    plain = attention.k_proj(memory.values)
    keys = attention._keys(memory, rotary)
    assert torch.equal(keys[-4:], plain[-4:])
    assert not torch.allclose(keys[1:-4], plain[1:-4])


def test_features_know_their_size():
    assert Features(noise(1, 256, 3, 7), None, noise(3, 12, 28), noise(64, 12, 28)).size_hw == (3, 7)


def test_of_a_tracked_frames_answers_nano_takes_the_one_nearest_to_what_was_carried():
    nano = Network(NANO).eval().requires_grad_(False)
    logits = torch.full((1, 4, 8, 8), -9.0)
    for token, width in enumerate((8, 1, 4, 6)):
        logits[:, token, :, :width] = 9.0
    answers = Answers(logits, torch.tensor([[0.9, 0.8, 0.1, 0.7]]), torch.zeros(1, 4, 256), torch.ones(1, 1))
    carried = torch.full((1, 1, 8, 8), -7.0)
    carried[..., :4] = 7.0
    found = nano.choose(answers, ambiguous=False, carried=carried).logits[:, 0]
    assert torch.allclose(found, logits[:, 2] + evidence(carried)[:, 0])


def test_nanos_answer_gives_way_to_what_was_carried_where_it_is_less_sure():
    nano = Network(NANO).eval().requires_grad_(False)
    logits = torch.full((1, 4, 80, 80), -2.0)
    logits[..., :40] = 2.0
    answers = Answers(logits, torch.ones(1, 4), torch.zeros(1, 4, 256), torch.ones(1, 1))
    carried = torch.full((1, 1, 80, 80), -7.0)
    carried[..., :60] = 7.0
    assert torch.equal(nano.choose(answers, ambiguous=False, carried=carried).logits > 0, carried > 0)


def test_one_click_means_the_largest_reading_that_is_plausible_to_nano_and_the_best_one_to_the_others():
    logits = torch.full((1, 4, 8, 8), -9.0)
    for token, width in enumerate((7, 2, 5, 8)):
        logits[:, token, :, :width] = 9.0
    answers = Answers(logits, torch.tensor([[0.9, 0.8, 0.7, 0.2]]), torch.zeros(1, 4, 256), torch.ones(1, 1))
    nano = Network(NANO).eval().requires_grad_(False)
    assert torch.equal(nano.choose(answers, ambiguous=True).logits[:, 0], logits[:, 2])
    assert torch.equal(built().choose(answers, ambiguous=True).logits[:, 0], logits[:, 1])
