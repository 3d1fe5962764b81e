"""Training: clips, simulated prompts, losses, a clip by the tracker's rules, and a loop that can be interrupted."""

import copy
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from clips import FRAMES, HEIGHT, WIDTH, ball, disc, iou, nano, picture, tiny
from PIL import Image

from masklet.answers import asked_again
from masklet.cli import TRAININGS, cli
from masklet.errors import BadPrompt, BadVideo, BadWeights, Cancelled
from masklet.masks import box_of
from masklet.model.config import sam2_config
from masklet.model.mask_decoder import Answers
from masklet.model.network import Network
from masklet.tracker import Tracker
from masklet.train.clips import LEAST_AREA, Clip, FolderSource, Mixture
from masklet.train.curves import read_log
from masklet.train.loop import Run, open_sources, prepare, train
from masklet.train.losses import Truth, dice_loss, focal_loss, judge, mean, overlap
from masklet.train.prompting import Person, shrunk
from masklet.train.recipes import GROUPS, RECIPES, Limits, Recipe, members_of
from masklet.train.unroll import unroll
from masklet.weights import load_network, save_network

TWO = Clip(
    "disc and ball",
    np.stack([picture(frame) for frame in range(FRAMES)]),
    np.stack([[disc(frame), ball(frame)] for frame in range(FRAMES)]),
)


def short(frames, clip=TWO):
    return Clip(clip.name, clip.frames[:frames], clip.masks[:frames])


def remembering():
    """Return nano with a memory that is heard, though it makes no sense."""
    network = copy.deepcopy(nano())
    network.config = replace(network.config, remembers=True)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in network.memory_attention.named_parameters():
        if name.endswith("out_proj.weight"):
            parameter.copy_(0.01 * torch.randn(parameter.shape, generator=generator))
    return network


# --- losses ---------------------------------------------------------------------------------------------------------


def answers(logits, ious=(0.0, 0.0, 0.0, 0.0), score=0.0):
    """Return the answers for one object: four masks of `[h, w]` logits."""
    return Answers(torch.stack(logits)[None], torch.tensor([ious]), torch.zeros(1, 4, 256), torch.tensor([[score]]))


def truth(cells, present=True):
    return Truth(torch.tensor(cells)[None].float(), torch.tensor([present]))


def logit(probability):
    return float(np.log(probability / (1 - probability)))


REAL = [[1, 1], [0, 0]]
GUESS = torch.tensor([[logit(0.9), logit(0.6)], [logit(0.2), logit(0.5)]])


def test_focal_loss_is_what_a_hand_calculates():
    expected = (
        -0.25 * 0.1**2 * np.log(0.9)
        - 0.25 * 0.4**2 * np.log(0.6)
        - 0.75 * 0.2**2 * np.log(0.8)
        - 0.75 * 0.5**2 * np.log(0.5)
    ) / 4
    assert focal_loss(GUESS, truth(REAL).masks[0]).item() == pytest.approx(expected, rel=1e-5)


def test_dice_loss_is_what_a_hand_calculates():
    expected = 1 - (2 * (0.9 + 0.6) + 1) / (0.9 + 0.6 + 0.2 + 0.5 + 2 + 1)
    assert dice_loss(GUESS, truth(REAL).masks[0]).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("loss", [focal_loss, dice_loss])
def test_mask_losses_have_the_gradient_that_differences_show(loss):
    logits = torch.linspace(-3, 3, 12, dtype=torch.float64).view(3, 4).requires_grad_(True)
    real = (torch.arange(12).view(3, 4) % 3 == 0).double()
    assert torch.autograd.gradcheck(lambda x: loss(x, real), (logits,))


def test_predicted_iou_is_judged_by_its_distance_from_the_overlap():
    half = torch.tensor([[8.0, -8.0], [-8.0, -8.0]])  # one of two cells: an overlap of a half
    assert overlap(half, truth(REAL).masks[0]).item() == 0.5
    ious = torch.tensor([[0.9, 0.1, 0.5, 0.3]], requires_grad=True)
    verdict = judge(replace(answers([half] * 4), ious=ious), truth(REAL), "all")
    assert verdict.iou.item() == pytest.approx((0.4 + 0.4 + 0.0 + 0.2) / 4)
    verdict.iou.sum().backward()
    assert ious.grad[0, [0, 1, 3]].tolist() == [0.25, -0.25, -0.25]


@pytest.mark.parametrize(("present", "expected"), [(True, np.log(1 + np.exp(-2))), (False, np.log(1 + np.exp(2)))])
def test_occlusion_is_judged_by_cross_entropy(present, expected):
    score = torch.tensor([[2.0]], requires_grad=True)
    verdict = judge(replace(answers([GUESS] * 4), scores=score), truth(REAL, present), "one")
    assert verdict.occlusion.item() == pytest.approx(expected, rel=1e-5)
    verdict.occlusion.sum().backward()
    assert score.grad.item() == pytest.approx(1 / (1 + np.exp(-2)) - present, rel=1e-5)


GOOD, POOR = 4 * torch.tensor([[1.0, 1.0], [-1.0, -1.0]]), 4 * torch.tensor([[1.0, -1.0], [1.0, -1.0]])


@pytest.mark.parametrize(
    ("judged", "learning", "rated"),
    [
        ("one", {0}, {0}),
        ("three", {2}, {1, 2, 3}),
        ("rated", {2}, {0, 1, 2, 3}),
        ("all", {0, 2}, {0, 1, 2, 3}),
    ],
)
def test_of_three_readings_the_best_learns_its_mask_and_all_learn_to_rate_themselves(judged, learning, rated):
    logits = torch.stack([POOR, POOR, GOOD, -GOOD])[None].requires_grad_(True)
    ious = torch.full((1, 4), 0.7, requires_grad=True)
    verdict = judge(replace(answers([POOR] * 4), logits=logits, ious=ious), truth(REAL), judged)
    mean([verdict]).total.backward()
    assert {i for i in range(4) if logits.grad[0, i].any()} == learning
    assert {i for i in range(4) if ious.grad[0, i]} == rated


def test_where_an_object_cannot_be_seen_only_the_occlusion_score_counts():
    gone = judge(answers([GUESS] * 4, score=3.0), truth([[0, 0], [0, 0]], present=False), "all")
    seen = judge(answers([GUESS] * 4, score=3.0), truth(REAL), "all")
    both, alone = mean([gone, seen]), mean([seen])
    assert (both.focal, both.dice, both.iou) == (alone.focal, alone.dice, alone.iou)
    assert both.occlusion.item() == pytest.approx((gone.occlusion + seen.occlusion).item() / 2)
    nothing = mean([gone])
    assert (nothing.focal, nothing.dice, nothing.iou) == (0, 0, 0)


def test_the_four_losses_are_weighted_as_in_the_paper():
    losses = mean([judge(answers([GUESS] * 4, score=1.0), truth(REAL), "one")])
    lighter = mean([judge(answers([GUESS] * 4, score=1.0), truth(REAL), "one", weight=3.0)])
    assert losses.total == 20 * losses.focal + losses.dice + losses.iou + losses.occlusion
    assert lighter.total == 3 * losses.focal + losses.dice + losses.iou + losses.occlusion


def test_a_cell_is_object_if_half_of_its_area_is():
    mask = np.zeros((4, 6), bool)
    mask[:2, :2], mask[0, 2:4], mask[0, 4] = True, True, True  # a whole cell, a half, a quarter
    assert shrunk(mask, (2, 3)).tolist() == [[True, True, False], [False, False, False]]


# --- simulated prompts ----------------------------------------------------------------------------------------------


def people(count, clip=TWO):
    return [Person(clip, np.random.default_rng(seed)) for seed in range(count)]


def test_a_person_begins_with_a_mask_half_of_the_time_else_with_a_box_or_a_click():
    kinds = Counter(kind for person in people(1000) for kind in person.kinds)
    assert kinds["mask"] / 2000 == pytest.approx(0.5, abs=0.04)
    assert kinds["box"] / 2000 == pytest.approx(0.25, abs=0.04)
    assert kinds["click"] / 2000 == pytest.approx(0.25, abs=0.04)
    assert {kind for person in people(50, short(1)) for kind in person.kinds} == {"box", "click"}


def test_first_prompts_are_where_the_object_is():
    middle_clicks, kinds = 0, Counter()
    for person in people(200):
        for row, mask in enumerate(TWO.masks[0]):
            prompt, kind = person.start(row), person.kinds[row]
            kinds[kind] += 1
            if kind == "mask":
                assert prompt.mask is mask or np.array_equal(prompt.mask, mask)
            elif kind == "click":
                [click] = prompt.clicks
                assert click.positive
                assert mask[int(click.y), int(click.x)]
                x0, y0, x1, y1 = box_of(mask)
                middle_clicks += abs(click.x - (x0 + x1 - 1) / 2) <= 1 and abs(click.y - (y0 + y1 - 1) / 2) <= 1
            else:
                drawn = np.array([prompt.box.x0, prompt.box.y0, prompt.box.x1, prompt.box.y1])
                sides = np.array(box_of(mask))[2:] - np.array(box_of(mask))[:2]
                assert (np.abs(drawn - box_of(mask)) / np.tile(sides, 2)).max() < 0.5
                assert (drawn >= 0).all()
                assert (drawn <= [WIDTH, HEIGHT] * 2).all()
    assert 0.35 < middle_clicks / kinds["click"] < 0.65


def test_a_correction_is_positive_on_what_is_missing_and_negative_on_what_is_too_much():
    right = disc(0)
    found = np.roll(right, 8, axis=1)
    missing, wrong = right & ~found, found & ~right
    signs = Counter()
    for person in people(100):
        if person.kinds[0] == "mask":
            continue
        before = person.start(0)
        prompt = person.correct(0, 0, found)
        click = prompt.clicks[-1]
        assert (missing if click.positive else wrong)[int(click.y), int(click.x)]
        assert (prompt.clicks[:-1], prompt.box) == (before.clicks, before.box)  # all that was said on the frame
        signs[click.positive] += 1
    assert min(signs.values()) > 10


def test_a_correction_of_a_small_picture_of_the_mask_falls_on_the_same_place_of_the_frame():
    found = np.zeros((HEIGHT // 4, WIDTH // 4), bool)
    for person in people(50):
        click = person.correct(3, 1, found).clicks[0]
        assert click.positive
        assert ball(3)[int(click.y), int(click.x)]


def test_a_person_says_nothing_of_a_right_mask_nor_of_one_they_drew():
    for person in people(20):
        assert person.correct(2, 0, disc(2)) is None
        person.start(0)
        if person.kinds[0] == "mask":
            assert person.correct(0, 0, ~disc(0)) is None


def test_at_most_two_frames_are_corrected_or_a_picture_twice():
    for frames in (FRAMES, 1):
        rounds = [person.rounds for person in people(100, short(frames))]
        assert {sum(counter.values()) for counter in rounds} == {0, 1, 2}
        assert max(max(counter.values(), default=0) for counter in rounds) == (1 if frames > 1 else 2)


# --- a clip through the network -------------------------------------------------------------------------------------


def tracked(network, clip, prompts, numbers):
    """Put the same prompts to the tracker, frame i of the clip being number i, and yield what it keeps of each."""
    tracker = Tracker(network, height=HEIGHT, width=WIDTH)
    for i, frame in enumerate(numbers):
        features = tracker.see(clip.frames[i])
        if i == 0:
            now = [tracker.prompt(features, prompt) for prompt in prompts[0]]
        else:
            now = tracker.step(frame, features, tracker.objects)
        for prompt in [prompt for said in prompts[1:] for prompt in said if prompt.frame == i]:
            prompt = replace(prompt, frame=frame)
            now[int(prompt.object)] = tracker.prompt(features, prompt, reverse=False if i else None)
        yield now


class Thorough(Person):
    """Corrects the first frame, and the third."""

    def __post_init__(self):
        super().__post_init__()
        self.rounds = Counter([0, 2])


@pytest.mark.parametrize(("network", "start"), [(nano, 0), (remembering, 4), (tiny, 0), (tiny, 4)])
def test_a_clip_without_gradients_gets_the_trackers_answers(network, start, monkeypatch):
    # A batch differs from one by one in the last digit, which rounding a memory to bfloat16 can make a visible one.
    monkeypatch.setattr("masklet.tracker.MAP_DTYPE", torch.float32)
    network, clip, kinds, corrected = network(), short(4), set(), set()
    for seed in (1, 2):
        person = Thorough(clip, np.random.default_rng(seed))
        with torch.no_grad():
            result = unroll(network, clip, person, start=start)
        kinds.update(person.kinds)
        numbers = [0, *range(1 + start, 4 + start)]
        corrected.update(prompt.frame for said in result.prompts[1:] for prompt in said)
        for ours, theirs in zip(result.memories, tracked(network, clip, result.prompts, numbers), strict=True):
            for a, b in zip(ours, theirs, strict=True):
                assert a.frame == b.frame
                assert (a.logits - b.logits).abs().max() < 1e-3
                assert (a.pointer - b.pointer).abs().max() < 1e-4
                assert [a.score, a.iou] == pytest.approx([b.score, b.iou], abs=1e-4)
                assert (a.map is None) == (b.map is None)
    assert kinds == {"mask", "box", "click"}
    assert corrected == {0, 2}


def gradients(network, groups, *, frames=3):
    """Unroll a clip with some groups of parameters trained, and return the names of parameters with a gradient."""
    network = copy.deepcopy(network).requires_grad_(False)
    for group in groups:
        for _, parameter in members_of(network, group):
            parameter.requires_grad_(True)
    clip = short(frames)
    result = unroll(network, clip, Person(clip, np.random.default_rng(4)))
    mean([step.verdict for step in result.steps]).total.backward()
    return {name for name, p in network.named_parameters() if p.grad is not None and p.grad.any()}


def test_gradients_reach_what_is_trained_and_nothing_else():
    assert all(name.startswith(GROUPS["decoder"]) for name in gradients(nano(), ["decoder"]))
    reached = gradients(nano(), ["neck", "trunk"])
    assert {name for group in ("neck", "trunk") for name, _ in members_of(nano(), group)} == reached


def test_gradients_flow_through_memories():
    """What a frame remembers is only judged by the frames after it."""
    memory = {name for name, _ in members_of(tiny(), "memory") if not name.startswith("no_")}
    reached = gradients(tiny(), ["memory"], frames=4)
    assert {name for name in memory if name.startswith(("memory_encoder", "memory_attention", "obj_ptr"))} <= reached


def test_of_a_tracked_frame_the_mask_that_is_shown_is_judged(monkeypatch):
    """Not the decoder's answer alone: nano adds what was carried to it."""
    judged = []
    monkeypatch.setattr(
        "masklet.train.unroll._Run._judge",
        lambda run, rows, answers, logits, tokens, asked: judged.append((asked, answers.logits, logits[:, 0])),
    )
    clip = short(3)
    with torch.no_grad():
        unroll(nano(), clip, Thorough(clip, np.random.default_rng(1)))
    tracked = [(answers, shown) for asked, answers, shown in judged if asked == "track"]
    assert len(tracked) == 2
    for answers, shown in tracked:
        assert (answers == shown[:, None]).flatten(2).all(dim=2).any(dim=1).all()


@pytest.mark.parametrize(("network", "again"), [(nano, ["grow"]), (tiny, [])])
def test_one_click_is_asked_again_as_nano_does_and_judged_both_times(network, again, monkeypatch):
    judged, found = [], []
    monkeypatch.setattr(
        "masklet.train.unroll._Run._judge",
        lambda run, rows, answers, logits, tokens, asked: judged.append((asked, tokens, answers.logits)),
    )
    monkeypatch.setattr(
        "masklet.answers.asked_again", lambda *question: found.append(asked_again(*question)) or found[-1]
    )
    person = Person(short(1), np.random.default_rng(0))
    person.kinds, person.rounds = ["click", "click"], Counter()
    with torch.no_grad():
        unroll(network(), short(1), person)
    assert [asked for asked, _, _ in judged] == ["click", *again]
    assert judged[0][1] == ("rated" if again else "three")
    for _, tokens, logits in judged[1:]:
        assert tokens == "one"
        assert torch.equal(logits, found[0].logits)


def test_an_object_that_came_back_elsewhere_teaches_only_a_network_that_remembers():
    near, far = (np.zeros((1, HEIGHT, WIDTH), bool) for _ in range(2))
    near[0, 10:40, 10:40] = far[0, 60:90, 90:120] = True
    clip = Clip("jump", TWO.frames[:2], np.stack([near, far]))
    for network, taught in ((nano(), []), (remembering(), [1])):
        person = Person(clip, np.random.default_rng(0))
        person.kinds, person.rounds = ["mask"], Counter()
        with torch.no_grad():
            result = unroll(network, clip, person)
        assert [step.frame for step in result.steps] == taught


def test_differs_memory_of_nano_begins_by_adding_nothing_and_its_weights_say_that_it_remembers(tmp_path):
    data = [write_dataset(tmp_path / "data")]
    run = prepare("nano-memory", data, tmp_path / "out", model="nano", limits=Limits(1))
    run.network.take_pictures_of(224)
    save_network(run.network, tmp_path / "start.safetensors")
    assert load_network(tmp_path / "start.safetensors").config.remembers
    assert not load_network("nano").config.remembers
    clip, person = short(3), [Person(short(3), np.random.default_rng(2)) for _ in range(2)]
    with torch.no_grad():
        ours, shipped = (
            unroll(network, clip, someone) for network, someone in zip((run.network, nano()), person, strict=True)
        )
    assert ours.memories[2][0].map is not None
    for new, old in zip(ours.memories[2], shipped.memories[2], strict=True):
        assert torch.equal(new.logits, old.logits)
    heard = [p for name, p in members_of(run.network, "memory") if name.startswith("memory_attention.layers")]
    assert all(parameter.any() for parameter in heard if parameter.dim() > 1)


def test_only_a_training_of_the_occlusion_score_makes_it_doubt(tmp_path):
    data, head = [write_dataset(tmp_path / "data")], "sam_mask_decoder.pred_obj_score_head.layers.2.bias"
    sure = nano().get_parameter(head)
    for recipe, trained in (("nano", False), ("nano-trunk", True)):
        bias = prepare(recipe, data, tmp_path / "out", model="nano", limits=Limits(1)).network.get_parameter(head)
        assert bias.requires_grad == trained
        assert (bias < sure).all() == trained


def test_a_single_click_means_a_whole_thing_and_parts_are_chosen_less_often():
    clip = Clip("parts", TWO.frames[:2], np.repeat(TWO.masks[:2, :1], 8, axis=1), frozenset({1, 2, 3}))
    assert clip.only([0, 2, 5]).parts == {1}
    for seed in range(30):
        assert all(Person(clip, np.random.default_rng(seed)).kinds[row] != "click" for row in clip.parts)


# --- data -----------------------------------------------------------------------------------------------------------


def write_dataset(path, *, per_object=False, frames=FRAMES, annotated=None, grow=2):
    """Write the clip of disc and ball, `grow` times as large, as DAVIS or SA-V lay it out."""
    pictures, truths = path / "JPEGImages" / "two", path / "Annotations" / "two"
    pictures.mkdir(parents=True)
    for frame in range(frames):
        size = (grow * WIDTH, grow * HEIGHT)
        Image.fromarray(picture(frame)).resize(size).save(pictures / f"{frame:05d}.png")
        if annotated is not None and frame not in annotated:
            continue
        masks = {"1": disc(frame), "2": ball(frame)}
        if per_object:
            for name, mask in masks.items():
                (truths / name).mkdir(parents=True, exist_ok=True)
                Image.fromarray(mask).resize(size, 0).save(truths / name / f"{frame:05d}.png")
        else:
            truths.mkdir(parents=True, exist_ok=True)
            labels = sum(int(name) * mask.astype(np.uint8) for name, mask in masks.items())
            Image.fromarray(labels).resize(size, 0).save(truths / f"{frame:05d}.png")
    return path


def yellow(rgb):
    """Return where the disc's colour is: more red than blue, by far."""
    return rgb[..., 0].astype(int) - rgb[..., 2] > 60


@pytest.mark.parametrize("per_object", [False, True])
@pytest.mark.parametrize("size_hw", [(96, 128), (64, 112), (112, 64)])
def test_a_folder_gives_clips_of_any_shape_whose_masks_lie_on_their_objects(tmp_path, per_object, size_hw):
    source = FolderSource(write_dataset(tmp_path, per_object=per_object))
    shapes = set()
    for seed in range(12):
        clip = source.clip(np.random.default_rng(seed), frames=3, size_hw=size_hw)
        assert clip.frames.shape == (3, *size_hw, 3)
        assert clip.masks.shape[0] == 3
        assert clip.masks.shape[2:] == size_hw
        assert (clip.masks[0].mean(axis=(1, 2)) >= LEAST_AREA).all()
        discs = yellow(clip.frames)
        found = [iou(mask, seen) for mask, seen in zip(clip.masks.any(axis=1), discs, strict=True) if seen.any()]
        shapes.add(clip.masks.shape[1])
        if clip.masks.shape[1] == 1 and discs.any():
            assert min(found) > 0.8
    assert shapes == {1, 2} or size_hw == (96, 128)


def test_the_same_generator_gives_the_same_clip(tmp_path):
    source = FolderSource(write_dataset(tmp_path))
    first, again, other = (source.clip(np.random.default_rng(seed), frames=2, size_hw=(64, 64)) for seed in (1, 1, 2))
    assert np.array_equal(first.frames, again.frames)
    assert np.array_equal(first.masks, again.masks)
    assert not np.array_equal(first.frames, other.frames)


def test_frames_without_masks_are_stepped_over(tmp_path):
    source = FolderSource(write_dataset(tmp_path, annotated={0, 4, 7}))
    for seed in range(10):
        clip = source.clip(np.random.default_rng(seed), frames=3, size_hw=(96, 128))
        assert clip.masks.any(axis=(2, 3)).any(axis=1).all()


def test_a_single_picture_becomes_a_clip_over_which_a_window_moves(tmp_path):
    source = FolderSource(write_dataset(tmp_path, frames=1))
    clips = [source.clip(np.random.default_rng(seed), frames=4, size_hw=(64, 80)) for seed in range(5)]
    assert any((clip.masks[0] != clip.masks[-1]).any() for clip in clips)


def test_a_dataset_whose_objects_are_too_small_is_refused(tmp_path):
    pictures, truths = tmp_path / "JPEGImages" / "far", tmp_path / "Annotations" / "far"
    pictures.mkdir(parents=True)
    truths.mkdir(parents=True)
    Image.fromarray(picture(0)).save(pictures / "0.png")
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[50, 60] = 1
    Image.fromarray(labels).save(truths / "0.png")
    with pytest.raises(BadVideo, match="no object larger than"):
        FolderSource(tmp_path).clip(np.random.default_rng(0), frames=2, size_hw=(HEIGHT, WIDTH))


def halve_masks(dataset, frame):
    for path in (dataset / "Annotations").rglob(f"{frame:05d}.png"):
        with Image.open(path) as mask:
            half = mask.resize((mask.width // 2, mask.height // 2), 0)
        half.save(path)


@pytest.mark.parametrize("per_object", [False, True])
def test_masks_of_another_size_than_their_pictures_are_refused_whether_first_or_later(tmp_path, per_object):
    dataset = write_dataset(tmp_path, per_object=per_object)
    source = FolderSource(dataset)
    sizes = rf"but its pictures {2 * WIDTH}x{2 * HEIGHT}: give both in one resolution"
    halve_masks(dataset, 5)
    with pytest.raises(BadVideo, match=rf"the masks of two are {WIDTH}x{HEIGHT} in .* \(frame 00005\), {sizes}"):
        for seed in range(20):
            source.clip(np.random.default_rng(seed), frames=4, size_hw=(64, 64))
    halve_masks(dataset, 0)
    with pytest.raises(BadVideo, match=rf"\(frame 00000\), {sizes}"):
        FolderSource(dataset)


def test_a_picture_that_its_camera_lays_on_its_side_is_seen_upright_as_its_masks_are(tmp_path):
    source = FolderSource(write_dataset(tmp_path, frames=1))
    upright = source.clip(np.random.default_rng(0), frames=1, size_hw=(96, 128))
    [path] = (tmp_path / "JPEGImages" / "two").iterdir()
    with Image.open(path) as image:
        lying, exif = image.transpose(Image.Transpose.ROTATE_90), image.getexif()
    exif[0x0112] = 6  # to be shown a quarter turned to the right
    lying.save(path, exif=exif)
    again = source.clip(np.random.default_rng(0), frames=1, size_hw=(96, 128))
    assert np.array_equal(again.frames, upright.frames)
    assert np.array_equal(again.masks, upright.masks)


def test_a_picture_that_cannot_be_read_is_named_whether_first_or_later(tmp_path):
    dataset = write_dataset(tmp_path)
    source = FolderSource(dataset)
    for frame in (5, 0):
        path = dataset / f"JPEGImages/two/{frame:05d}.png"
        path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(BadVideo, match=r"0000[05]\.png cannot be read \(.*\): remove it or replace it"):
        for seed in range(20):
            source.clip(np.random.default_rng(seed), frames=4, size_hw=(64, 64))
    with pytest.raises(BadVideo, match=r"00000\.png cannot be read"):
        FolderSource(dataset)


def test_evaluation_only_frames_are_refused_whether_first_or_later(tmp_path, monkeypatch):
    forbidden = {}

    def evaluation_frame(rgb):
        return forbidden.get(rgb.tobytes())

    monkeypatch.setattr("masklet.train.guard.evaluation_frame", evaluation_frame)
    dataset = write_dataset(tmp_path, grow=1)
    source = FolderSource(dataset)
    forbidden[picture(5).tobytes()] = "somebody's test set"
    with pytest.raises(BadVideo, match=r"00005\.png is somebody's test set, which is for evaluation only"):
        for seed in range(20):
            source.clip(np.random.default_rng(seed), frames=4, size_hw=(64, 64))
    forbidden[picture(0).tobytes()] = "somebody's test set"
    with pytest.raises(BadVideo, match=r"00000\.png"):
        FolderSource(dataset)


def test_a_mixture_draws_from_its_sources_equally_often_and_twice_from_one_given_twice():
    class One:
        def __init__(self, name):
            self.name = name

        def clip(self, rng, *, frames, size_hw):
            return self.name

    mixture = Mixture([One("a"), One("a"), One("b")])
    rng = np.random.default_rng(0)
    drawn = Counter(mixture.clip(rng, frames=1, size_hw=(1, 1)) for _ in range(900))
    assert drawn["a"] / 900 == pytest.approx(2 / 3, abs=0.05)


# --- the loop -------------------------------------------------------------------------------------------------------


class Both:
    """Two clips: disc and ball, and the same backwards."""

    def clip(self, rng, *, frames, size_hw):
        order = slice(None) if rng.random() < 0.5 else slice(None, None, -1)
        return Clip("two", TWO.frames[order][:frames], TWO.masks[order][:frames])


QUICK = Recipe("quick", {"decoder": 3e-4, "neck": 3e-4, "memory": 3e-4}, frames=2, objects=2, picture_share=0.25)


def small_run(out, *, steps, recipe=QUICK):
    """Return a training of nano with a memory, on pictures of 64 pixels."""
    network = remembering()
    network.take_pictures_of(64)
    return Run(recipe, network, Both(), out, Limits(steps), narrow=False)


def test_twenty_steps_of_tiny_from_random_weights_lower_the_loss(tmp_path):
    torch.manual_seed(0)
    network = Network(sam2_config("tiny", image_px=64))
    train(Run(QUICK, network, Both(), tmp_path, Limits(20), narrow=False))
    losses = [line["loss"] for line in read_log(tmp_path)]
    assert len(losses) == 20
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])


def test_focal_loss_counts_twenty_times_but_once_where_nano_shows_the_sum_of_two_answers(tmp_path):
    torch.manual_seed(0)
    official = Network(sam2_config("tiny", image_px=64))
    train(Run(QUICK, official, Both(), tmp_path / "tiny", Limits(1), narrow=False))
    train(small_run(tmp_path / "nano", steps=1))
    for name, weight in (("tiny", 20), ("nano", 1)):
        (line,) = read_log(tmp_path / name)
        parts = weight * line["focal"] + line["dice"] + line["iou"] + line["occlusion"]
        assert line["loss"] == pytest.approx(parts, rel=1e-4)


def without_time(lines):
    return [{name: value for name, value in line.items() if name not in ("seconds", "waited")} for line in lines]


def test_a_training_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(small_run(whole, steps=4))

    def stop(line):
        if line["step"] == 2:
            raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        train(small_run(parts, steps=4), report=stop)
    assert load_network(parts / "model.safetensors").config.is_nano
    with (parts / "log.jsonl").open("a") as log:  # steps of which no checkpoint knows, and half a line
        log.write('{"step": 3, "loss": 0}\n{"step": 4, "lo')
    resumed = small_run(parts, steps=4)
    resumed.seed = 7  # is forgotten
    train(resumed, resume=True)
    assert without_time(read_log(parts)) == without_time(read_log(whole))
    states = [torch.load(out / "state.pt", weights_only=True) for out in (whole, parts)]
    for kind in ("weights", "average"):
        for name, tensor in states[0][kind].items():
            assert torch.equal(tensor, states[1][kind][name])


class BothUntil(Both):
    """The two clips, until after some a picture cannot be read."""

    def __init__(self, clips):
        self.left = clips

    def clip(self, rng, *, frames, size_hw):
        if not self.left:
            raise BadVideo("00003.jpg cannot be read")
        self.left -= 1
        return super().clip(rng, frames=frames, size_hw=size_hw)


def test_a_picture_that_cannot_be_read_costs_no_steps(tmp_path):
    run = small_run(tmp_path, steps=3)
    run.source = BothUntil(clips=2 * QUICK.clips)
    with pytest.raises(BadVideo, match=r"00003\.jpg"):
        train(run)
    assert load_network(tmp_path / "model.safetensors").config.is_nano
    train(small_run(tmp_path, steps=3), resume=True)
    assert [line["step"] for line in read_log(tmp_path)] == [1, 2, 3]


def test_a_training_that_fails_before_its_first_step_leaves_its_folder_free(tmp_path):
    run = small_run(tmp_path, steps=1)
    run.source = BothUntil(clips=0)
    with pytest.raises(BadVideo):
        train(run)
    train(small_run(tmp_path, steps=1))


def test_only_the_recipe_and_the_model_it_began_with_go_on(tmp_path):
    train(small_run(tmp_path, steps=1))
    other_model = small_run(tmp_path, steps=2)
    name = next(name for name, p in other_model.network.named_parameters() if not p.requires_grad)
    with torch.no_grad():
        other_model.network.get_parameter(name).view(-1)[0] += 1
    other_groups = small_run(tmp_path, steps=2, recipe=replace(QUICK, rates={"decoder": 1e-4}))
    other_name = small_run(tmp_path, steps=2, recipe=replace(QUICK, name="slow"))
    for other in (other_model, other_groups, other_name):
        with pytest.raises(BadWeights, match=r"another recipe or model \(its recipe: quick\): resume with those"):
            train(other, resume=True)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    torch.save({key: value for key, value in state.items() if key not in ("recipe", "frozen")}, tmp_path / "state.pt")
    with pytest.raises(BadWeights, match="its recipe: unknown, of an earlier masklet"):
        train(small_run(tmp_path, steps=2), resume=True)


def test_a_damaged_state_is_refused_and_the_weights_so_far_are_named(tmp_path):
    train(small_run(tmp_path, steps=1))
    path = tmp_path / "state.pt"
    for damaged in (path.read_bytes()[:100_000], b"", b"no state"):
        path.write_bytes(damaged)
        with pytest.raises(BadWeights, match=rf"{path} is damaged .*: begin again .* --model {tmp_path}/model\.safe"):
            train(small_run(tmp_path, steps=2), resume=True)


def test_what_is_not_trained_stays_as_it_is_and_the_result_is_the_average(tmp_path):
    run = small_run(tmp_path, steps=2, recipe=replace(QUICK, rates={"decoder": 1e-3}))
    before = copy.deepcopy(run.network).state_dict()
    result = load_network(train(run)).state_dict()
    changed = {name for name, tensor in result.items() if not torch.equal(tensor, before[name])}
    assert changed
    assert all(name.startswith(GROUPS["decoder"]) for name in changed)
    name = "sam_mask_decoder.iou_token.weight"
    apart = [(weights - before[name]).abs().mean() for weights in (result[name], run.network.state_dict()[name])]
    assert 0 < apart[0] < apart[1]


def test_the_groups_are_all_parameters_and_none_twice():
    for network in (nano(), tiny()):
        found = [name for group in GROUPS for name, _ in members_of(network, group)]
        assert sorted(found) == sorted(name for name, _ in network.named_parameters())


def test_the_rate_warms_up_stays_and_ends_at_nothing_by_steps_or_by_time(tmp_path):
    run = small_run(tmp_path, steps=1000)
    rates = []
    for run.step in (0, 49, 300, 750, 1000):
        rates.append(run._set_rate())
    assert rates == pytest.approx([0.02, 1, 1, 0.5, 0])
    run.limits, run.step, run.seconds = Limits(10**6, minutes=10), 1000, 450
    assert run._set_rate() == pytest.approx(0.5)
    run.seconds = 600
    assert run.done


@pytest.mark.parametrize("minutes", [float("nan"), 0.0, -1.0])
def test_a_time_that_never_ends_or_has_ended_is_refused(minutes):
    with pytest.raises(BadPrompt, match=rf"minutes is {minutes}: give a number above 0, or leave it out"):
        Limits(5, minutes=minutes)


def test_pictures_of_every_size_of_the_recipe_are_drawn(tmp_path):
    class Asked:
        def clip(self, rng, *, frames, size_hw):
            return Clip("", np.zeros((frames, *size_hw, 3), np.uint8), np.ones((frames, 12, *size_hw), bool))

    recipe = Recipe("sizes", {"decoder": 0.0}, long_sides_px=(64, 96), frames=3, objects=2, picture_share=0.5)
    run = Run(recipe, nano(), Asked(), tmp_path, Limits(1))
    shapes = [run.draw(step).clips[0][0].masks.shape for step in range(60)]
    assert {max(shape[2:]) for shape in shapes} == {64, 96}
    assert all(side % 16 == 0 for shape in shapes for side in shape[2:])
    assert {shape[:2] for shape in shapes} == {(1, 6), (3, 2)}
    assert any(shape[2] > shape[3] for shape in shapes)


def test_the_command_trains_nano_resumes_and_leaves_weights_log_and_curves(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setitem(RECIPES, "nano", replace(RECIPES["nano"], long_sides_px=(112,), frames=2))
    write_dataset(tmp_path / "data")
    command = ["train", "--recipe", "nano", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(cli, [*command, "--steps", "2"], catch_exceptions=False)
    assert done.stdout.strip() == str(tmp_path / "out" / "model.safetensors")
    again = CliRunner().invoke(cli, [*command, "--steps", "2"])
    assert isinstance(again.exception, BadWeights)
    assert "go on with --resume" in str(again.exception)
    CliRunner().invoke(cli, [*command, "--steps", "3", "--resume"], catch_exceptions=False)
    assert [line["step"] for line in read_log(tmp_path / "out")] == [1, 2, 3]
    with Image.open(tmp_path / "out" / "curves.png") as curves:
        assert curves.width > 100
    assert load_network(tmp_path / "out" / "model.safetensors").config.is_nano


def test_the_command_refuses_minutes_that_are_no_number_before_anything_is_made(tmp_path):
    command = ["train", "--recipe", "nano", "--data", str(tmp_path), "--out", str(tmp_path / "out"), "--minutes", "nan"]
    assert isinstance(CliRunner().invoke(cli, command).exception, BadPrompt)
    assert not (tmp_path / "out").exists()


def test_the_command_knows_the_recipes():
    assert set(TRAININGS) == set(RECIPES)


def test_an_official_checkpoint_is_fine_tuned_at_its_own_size_with_its_trunk_left_alone(tmp_path):
    data = [write_dataset(tmp_path / "data")]
    save_network(tiny(), tmp_path / "tiny.safetensors")
    run = prepare("finetune", data, tmp_path / "out", model=tmp_path / "tiny.safetensors", limits=Limits(1))
    assert run.network.config == sam2_config("tiny")
    assert run.draw(0).side_px == 1024
    trained = {name for name, parameter in run.network.named_parameters() if parameter.requires_grad}
    assert trained == {
        name for group in ("decoder", "score", "neck", "memory") for name, _ in members_of(tiny(), group)
    }


def test_nano_fine_is_trained_at_its_own_size_and_what_comes_out_has_it(tmp_path):
    run = prepare("nano", [write_dataset(tmp_path / "data")], tmp_path / "out", model="nano-fine", limits=Limits(1))
    assert run.draw(0).side_px == 1280
    run.step = run.limits.steps  # nothing is left to do but to write
    train(run)
    assert load_network(tmp_path / "out" / "model.safetensors").config.image_px == 1280


def test_mistakes_are_explained(tmp_path):
    data = [write_dataset(tmp_path / "data")]
    with pytest.raises(BadWeights, match="nothing to resume"):
        train(prepare("nano", data, tmp_path / "none", model="nano", limits=Limits(1)), resume=True)
    save_network(tiny(), tmp_path / "tiny.safetensors")
    with pytest.raises(BadWeights, match=r"recipe nano is for nano, but .*: use --recipe finetune"):
        prepare("nano", data, tmp_path / "out", model=tmp_path / "tiny.safetensors", limits=Limits(1))
    with pytest.raises(BadVideo, match="has no folder JPEGImages"):
        open_sources([tmp_path])
    with pytest.raises(ValueError, match="masks are"):
        Clip("odd", TWO.frames, TWO.masks[:2])
