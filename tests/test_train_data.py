"""Training data: what may not be in it, cut-outs and how they lie, made clips, masks found and followed."""

import hashlib
import json
import os
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from clips import FRAMES, HEIGHT, WIDTH, ball, disc, iou, nano, picture, write_film
from PIL import Image, ImageDraw
from script import load_script

from masklet.dataset import sequences
from masklet.errors import BadVideo
from masklet.metrics import region_similarity
from masklet.tracker import Tracker
from masklet.train import backgrounds, cutouts, guard, motion, prepared, synthetic, teacher
from masklet.train.backgrounds import Backgrounds, write_backgrounds
from masklet.train.clips import FolderSource
from masklet.train.cutouts import Pose, lay, read_cutout, write_picture_cutouts, write_teacher_cutouts
from masklet.train.guard import evaluation_frame, fingerprints, refuse_evaluation_data
from masklet.train.motion import agreement, follow, write_motion, write_true_masks
from masklet.train.movement import Stage, away, fold, passing
from masklet.train.prepared import write_sequence
from masklet.train.synthetic import LEAST_SEEN, STORIES, TWIN, SyntheticSource
from masklet.train.teacher import find, write_teacher_masks

SIZE = (48, 72)
TEACHER_PX = 352
"""At 224 pixels SAM is not sure enough of a disc to keep it."""


def dice(seed=0):
    return np.random.default_rng(seed)


def scenery(seed, height=64, width=96):
    """Return a picture of soft random patches, like no other."""
    coarse = dice(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def emoji(seed, side=64):
    """Return a thing with transparency: some convex shape of one colour, with a soft edge."""
    rng = dice(seed)
    large = Image.new("RGBA", (4 * side, 4 * side))
    turns = np.sort(rng.uniform(0, 2 * np.pi, 9))
    corners = [(2 * side + 1.8 * side * np.cos(a), 2 * side + 1.5 * side * np.sin(a)) for a in turns]
    ImageDraw.Draw(large).polygon(corners, fill=(*rng.integers(60, 256, 3).tolist(), 255))
    return large.resize((side, side), Image.Resampling.BOX)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Prepared data in small: 24 cut-outs, some of them held out, and two films as backgrounds."""
    out = tmp_path_factory.mktemp("prepared")
    (out / "cutouts").mkdir()
    (out / "backgrounds").mkdir()
    for i in range(24):
        emoji(i).save(out / f"cutouts/shape-{i}.png")
    for film in range(2):
        for i in range(8):
            Image.fromarray(scenery(100 * film + i)).save(out / f"backgrounds/film{film}-{i:05d}.jpg")
    return out


@pytest.fixture
def forbidden(tmp_path, monkeypatch):
    """Put one frame, `scenery(7)`, on the list of evaluation-only data."""
    frames = tmp_path / "forbidden"
    frames.mkdir()
    Image.fromarray(scenery(7)).save(frames / "00012.png")
    (tmp_path / guard.LIST).write_text("\n".join(fingerprints(frames, prefix="secret")))
    monkeypatch.setattr(guard, "files", lambda package: tmp_path)
    guard._forbidden.cache_clear()
    yield scenery(7)
    guard._forbidden.cache_clear()


def content(folder):
    """Return every file below a folder with a hash of what is in it."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# --- the guard ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("holiday.png", lambda image: image),
        ("sub/folder/1.webp", lambda image: image),
        ("again.jpg", lambda image: image),
        ("smaller.jpg", lambda image: image.resize((60, 40))),
        ("larger.png", lambda image: image.resize((300, 200), Image.Resampling.BICUBIC)),
        ("darker.png", lambda image: image.point(lambda value: 0.8 * value)),
    ],
    ids=["renamed", "in another container", "compressed", "smaller and compressed", "larger", "darker"],
)
def test_a_frame_of_evaluation_only_data_is_refused_under_any_name(forbidden, tmp_path, name, change):
    path = tmp_path / "training" / name
    path.parent.mkdir(parents=True)
    Image.fromarray(scenery(1)).save(path.parent / "innocent.png")
    change(Image.fromarray(forbidden)).save(path, quality=60, lossless=True)
    with pytest.raises(BadVideo, match=rf"{path} is secret/00012, which is for evaluation only: take it out"):
        refuse_evaluation_data(tmp_path / "training")


def test_pixels_that_are_exactly_those_are_known_without_the_coarse_fingerprint(forbidden, monkeypatch):
    monkeypatch.setattr(guard, "ALIKE", -1)
    assert evaluation_frame(forbidden) == "secret/00012"
    assert evaluation_frame(forbidden ^ np.uint8(1)) is None


def test_other_pictures_and_masks_are_not_refused(forbidden, tmp_path):
    training = tmp_path / "training"
    for kind in ("JPEGImages/a", "Annotations/a"):
        (training / kind).mkdir(parents=True)
    for i in range(8, 40):
        Image.fromarray(scenery(i)).save(training / f"JPEGImages/a/{i}.jpg")
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(training / "JPEGImages/a/black.png")
    Image.fromarray(forbidden).save(training / "Annotations/a/masks are not looked at.png")
    refuse_evaluation_data(training)


def test_a_picture_that_cannot_be_read_is_not_passed_over(tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    with pytest.raises(BadVideo, match=r"broken\.jpg cannot be read"):
        refuse_evaluation_data(tmp_path)


def test_whatever_is_trained_on_is_named_if_it_cannot_be_read(folder, tmp_path):
    for kind in ("cutouts", "backgrounds"):
        made = tmp_path / kind
        shutil.copytree(folder, made)
        for path in (made / kind).iterdir():
            path.write_bytes(path.read_bytes()[:200])
        with pytest.raises(BadVideo, match=rf"{made}/{kind}/.* cannot be read \(.*\): remove it or replace it"):
            SyntheticSource(made).clip(dice(), frames=3, size_hw=SIZE)


def test_every_way_into_training_asks_the_guard(forbidden, folder, tmp_path):
    film = tmp_path / "film"
    film.mkdir()
    Image.fromarray(forbidden).save(film / "0.png")
    backdrops = tmp_path / "made/backgrounds"
    backdrops.mkdir(parents=True)
    Image.fromarray(forbidden).save(backdrops / "film-00000.jpg")
    (tmp_path / "made/cutouts").symlink_to(folder / "cutouts")
    mask = np.zeros(forbidden.shape[:2], bool)
    mask[20:50, 20:60] = True
    write_sequence(tmp_path / "dataset", "innocent", [Image.fromarray(forbidden)], {"thing": [mask]})
    ways = {
        "a dataset": lambda: FolderSource(tmp_path / "dataset").clip(dice(), frames=1, size_hw=SIZE),
        "a made clip": lambda: SyntheticSource(tmp_path / "made").clip(dice(), frames=1, size_hw=SIZE),
        "backgrounds": lambda: write_backgrounds([film], tmp_path / "out", dice(), runs=1),
        "the teacher": lambda: write_teacher_masks([film], tmp_path / "out", nano(), seed=0, frames_per_clip=1),
        "real motion": lambda: write_motion([film], tmp_path / "out", nano(), seed=0, per_clip=1),
        "true masks": lambda: write_true_masks(tmp_path / "dataset", tmp_path / "out"),
    }
    for way, take in ways.items():
        with pytest.raises(BadVideo, match=r"secret/00012"):
            take()
            pytest.fail(f"{way} took it")
    assert not list((tmp_path / "out").rglob("*.jpg"))


def test_the_list_holds_davis_and_knows_pictures_by_it():
    """No frame of DAVIS may be here, so pictures are painted that have exactly a listed frame's coarse fingerprint."""
    known = guard._forbidden()
    assert {name.split("/")[0] for name in known.names} == {"davis-dev", "davis2017-240p"}
    assert len(known.names) == len(known.exact) == 562
    for row in range(0, len(known.names), 40):
        steps = np.unpackbits(known.coarse[row]).reshape(guard.GRID_HW).astype(int) * 2 - 1
        levels = np.cumsum(np.pad(7 * steps, ((0, 0), (1, 0))), axis=1) + 128
        painted = np.kron(levels.clip(0, 255), np.ones((10, 10))).astype(np.uint8)
        found = evaluation_frame(np.stack([painted] * 3, axis=-1))
        assert found is not None and found.split("/")[:-1] == known.names[row].split("/")[:-1]


@pytest.mark.skipif("MASKLET_EVALUATION_ONLY" not in os.environ, reason="names folders of DAVIS, which is not ours")
def test_every_frame_of_davis_itself_is_refused():
    for dataset in os.environ["MASKLET_EVALUATION_ONLY"].split(os.pathsep):
        paths = sorted(Path(dataset, "JPEGImages").rglob("*.jpg"))
        assert paths
        assert [path for path in paths if evaluation_frame(np.asarray(Image.open(path).convert("RGB"))) is None] == []


# --- cut-outs -------------------------------------------------------------------------------------------------------


@pytest.fixture
def thing(folder):
    return read_cutout(folder / "cutouts/shape-3.png")


def alpha_of(image):
    return np.asarray(image)[..., 3]


def middle_of(image, x, y):
    """Return the middle of a picture whose left top corner lies at a place."""
    return x + image.width / 2, y + image.height / 2


def test_a_cutout_laid_down_as_it_is_keeps_every_value_of_its_opacity(thing):
    patch = lay(thing, Pose(middle_of(thing, 20, 10), (1.0, 1.0)), size_hw=(100, 120))
    frame = np.zeros((100, 120))
    frame[patch.rows, patch.columns] = patch.opacity[..., 0] * 255
    expected = np.zeros((100, 120))
    expected[10 : 10 + thing.height, 20 : 20 + thing.width] = alpha_of(thing)
    assert np.array_equal(frame.round(), expected)
    assert np.array_equal(frame.round() > 127, expected > 127)
    assert np.count_nonzero(patch.solid) == np.count_nonzero(alpha_of(thing) > 127)


def test_mirroring_and_turning_move_pixels_and_change_none(thing):
    straight = lay(thing, Pose((50, 50), (1.0, 1.0)), size_hw=(100, 100))
    mirrored = lay(thing, Pose((50, 50), (-1.0, 1.0)), size_hw=(100, 100))
    turned = lay(thing, Pose((50, 50), (1.0, 1.0), turn=np.pi / 2), size_hw=(100, 100))

    def whole(patch):
        frame = np.zeros((100, 100))
        frame[patch.rows, patch.columns] = patch.opacity[..., 0]
        return frame

    assert np.allclose(whole(mirrored), whole(straight)[:, ::-1], atol=1 / 255)
    # A positive turn is clockwise on a frame, where y goes down.
    assert np.allclose(whole(turned), np.rot90(whole(straight), -1), atol=2 / 255)


def test_a_bend_of_nothing_is_straight(thing):
    pose = Pose((47.3, 52.8), (0.8, 1.1), turn=0.4)
    straight = lay(thing, pose, size_hw=(100, 100))
    bent = lay(thing, replace(pose, bend_px=1e-9), size_hw=(100, 100))
    assert np.allclose(straight.opacity, bent.opacity, atol=2 / 255)


@pytest.mark.parametrize("seed", range(20))
def test_nothing_of_a_thing_lies_beyond_its_reach(seed):
    """A square, whose corners are as far out as can be."""
    thing = cutouts.bordered(Image.new("RGBA", (60, 60), (255, 0, 0, 255))).convert("RGBa")
    rng = dice(seed)
    pose = Pose(
        xy=(150.0, 150.0),
        scale_xy=tuple(rng.uniform(0.4, 2.0, 2)),
        turn=rng.uniform(0, 6),
        bend_px=rng.uniform(0, 10) * (seed % 2),
        bend_phase=tuple(rng.uniform(0, 6, 2)),
        motion_xy=tuple(rng.normal(0, 12, 2)),
    )
    patch = lay(thing, pose, size_hw=(300, 300))
    frame = np.zeros((300, 300))
    frame[patch.rows, patch.columns] = patch.opacity[..., 0]
    y, x = np.mgrid[:300, :300] + 0.5
    outside = np.hypot(x - 150, y - 150) > pose.reach_px(thing)
    assert frame.any() and frame[outside].sum() == 0
    assert not frame[0].any() and not frame[-1].any()


def test_motion_smears_a_thing_along_its_way_and_keeps_how_much_of_it_there_is(thing):
    pose = Pose((100, 60), (1.0, 1.0))
    still = lay(thing, pose, size_hw=(120, 200))
    moving = lay(thing, replace(pose, motion_xy=(24.0, 0.0)), size_hw=(120, 200))
    assert moving.opacity.sum() == pytest.approx(still.opacity.sum(), rel=1e-4)
    wider = np.count_nonzero(moving.opacity.any(axis=0)) - np.count_nonzero(still.opacity.any(axis=0))
    assert wider == pytest.approx(24, abs=1)
    assert np.count_nonzero(moving.opacity.any(axis=1)) == np.count_nonzero(still.opacity.any(axis=1))


def test_a_thing_beside_the_frame_is_not_laid_down(thing):
    for xy in ((-80, 50), (300, 50), (50, -80), (50, 300)):
        assert lay(thing, Pose(xy, (1.0, 1.0)), size_hw=(100, 200)) is None
    cut = lay(thing, Pose((0.0, 50.0), (1.0, 1.0)), size_hw=(100, 200))
    whole = lay(thing, Pose((100.0, 50.0), (1.0, 1.0)), size_hw=(100, 200))
    assert cut.opacity.sum() == pytest.approx(whole.opacity[:, whole.opacity.shape[1] // 2 :].sum(), rel=0.05)


def test_of_emoji_that_differ_in_skin_only_one_becomes_a_cutout(tmp_path):
    pictures = tmp_path / "assets"
    pictures.mkdir()
    for i, name in enumerate(("1f590", "1f590-1f3fb", "1f590-1f3ff", "1f436")):
        emoji(i).save(pictures / f"{name}.webp", lossless=True)
    assert write_picture_cutouts(pictures, tmp_path / "a", dice(3), prefix="fluent") == 2
    assert [path.name for path in sorted((tmp_path / "a").iterdir())] == ["fluent-1f436.png", "fluent-1f590.png"]
    write_picture_cutouts(pictures, tmp_path / "b", dice(3), prefix="fluent")
    assert content(tmp_path / "a") == content(tmp_path / "b")
    drawn = set()
    for seed in range(20):
        write_picture_cutouts(pictures, tmp_path / "c", dice(seed), prefix="fluent")
        drawn.add(content(tmp_path / "c")["fluent-1f590.png"])
    assert len(drawn) == 3


def test_a_cutout_is_trimmed_to_its_thing_and_no_longer_than_256_pixels():
    large = Image.new("RGBA", (900, 700))
    large.paste((200, 30, 30, 255), (100, 50, 700, 350))
    cut = cutouts.trimmed(large)
    assert cut.size == (256, 128)
    assert alpha_of(cut).min() == 255


@pytest.mark.parametrize(
    "picture",
    [Image.new("RGBA", (64, 64)), Image.new("RGBA", (64, 64), (255, 255, 255, 90))],
    ids=["nothing", "smoke"],
)
def test_what_can_be_seen_through_is_no_cutout(picture):
    assert cutouts.trimmed(picture) is None


def test_a_line_is_no_cutout():
    line = Image.new("RGBA", (64, 64))
    ImageDraw.Draw(line).line((0, 0, 63, 63), fill=(255, 0, 0, 255))
    assert cutouts.trimmed(line) is None


def test_a_folder_without_pictures_is_no_package_of_emoji(tmp_path):
    with pytest.raises(BadVideo, match="holds no PNG or WebP pictures"):
        write_picture_cutouts(tmp_path, tmp_path / "out", dice(), prefix="x")


def test_whole_things_that_the_teacher_found_inside_a_frame_become_cutouts(tmp_path):
    frame = scenery(5, 90, 120)
    inside, border, tiny = np.zeros((3, 90, 120), bool)
    inside[20:60, 30:80] = True
    border[0:40, 90:120] = True
    tiny[70:73, 20:23] = True
    masks = {"whole-000": [inside], "whole-001": [border], "whole-002": [tiny], "part-000": [inside]}
    write_sequence(tmp_path / "teacher", "park-00004", [Image.fromarray(frame)], masks)
    assert write_teacher_cutouts(tmp_path / "teacher", tmp_path / "cutouts") == 1
    [path] = (tmp_path / "cutouts").iterdir()
    assert path.name == "teacher-park-00004-00000-whole-000.png"
    cut = Image.open(path)
    solid = np.count_nonzero(alpha_of(cut) > 127)
    # Drawn in by about half a pixel all round, so that no background shows at its border.
    assert inside.sum() - 180 <= solid < inside.sum()
    left, top = 30 + (50 - cut.width) // 2, 20 + (40 - cut.height) // 2
    with Image.open(tmp_path / "teacher/JPEGImages/park-00004/00000.jpg") as stored:
        expected = np.asarray(stored)[top : top + cut.height, left : left + cut.width]
    assert np.array_equal(np.asarray(cut)[..., :3], expected)


# --- made clips -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def source(folder):
    return SyntheticSource(folder)


def told(folder, story):
    return SyntheticSource(folder, stories={story: 1})


def test_the_same_generator_gives_the_same_clip(folder):
    first, again, other = (SyntheticSource(folder).clip(dice(seed), frames=4, size_hw=SIZE) for seed in (5, 5, 6))
    assert (first.name, first.frames.shape) == (again.name, again.frames.shape)
    assert np.array_equal(first.frames, again.frames) and np.array_equal(first.masks, again.masks)
    assert not np.array_equal(first.frames, other.frames)


@pytest.mark.parametrize("frames", [1, 2, 3, 8])
def test_every_object_of_a_clip_is_seen_on_its_first_frame(source, frames):
    for seed in range(10):
        clip = source.clip(dice(seed), frames=frames, size_hw=SIZE)
        assert clip.frames.shape == (frames, *SIZE, 3) and clip.frames.dtype == np.uint8
        assert clip.masks.dtype == np.bool_ and 1 <= clip.masks.shape[1] <= 4
        assert clip.masks[0].mean(axis=(1, 2)).min() >= LEAST_SEEN
        assert frames >= 3 or clip.name == "synthetic-stays"


@pytest.mark.parametrize("least_seen", [LEAST_SEEN, 0.02], ids=["as usual", "when small objects are dropped"])
@pytest.mark.parametrize("story", ["leaves", "hides"])
def test_the_last_object_of_a_story_is_there_then_gone_then_there_again(folder, story, least_seen, monkeypatch):
    monkeypatch.setattr(synthetic, "LEAST_SEEN", least_seen)
    for seed in range(30):
        clip = told(folder, story).clip(dice(seed), frames=6, size_hw=SIZE)
        seen = clip.masks[:, -1].any(axis=(1, 2))
        assert clip.name == f"synthetic-{story}"
        assert seen[0] and seen[-1] and not seen.all(), f"seed {seed}: {seen}"
        assert np.count_nonzero(np.diff(seen.astype(int))) == 2, f"seed {seed}: it goes once and comes once, not {seen}"


def test_a_hiding_thing_is_covered_and_a_leaving_one_is_outside(folder):
    for story in ("hides", "leaves"):
        told_source = told(folder, story)
        for seed in range(30):
            rng = dice(seed)
            pictures, stage = told_source._backgrounds.film(rng, frames=5, size_hw=SIZE)
            layers = told_source._scene(rng, story, stage)
            hero = [layer for layer in layers if layer.named][-1]
            _, masks = synthetic._draw(pictures, layers, stage)
            gone = ~masks[:, -1].any(axis=(1, 2))
            laid = [lay(hero.picture, pose, size_hw=SIZE) for pose in hero.poses]
            inside = np.array([patch is not None and patch.solid.any() for patch in laid])
            assert gone[1:-1].any()
            assert (gone & inside).any() == (story == "hides"), f"{story}, seed {seed}"


def test_stories_are_told_as_often_as_they_say(source):
    """Of 400 clips; three standard deviations."""
    names = [source.clip(dice(seed), frames=3, size_hw=(24, 36)).name for seed in range(400)]
    for story, share in STORIES.items():
        found = names.count(f"synthetic-{story}") / len(names)
        assert found == pytest.approx(share, abs=3 * np.sqrt(share * (1 - share) / len(names))), story


@pytest.mark.parametrize("story", list(STORIES))
def test_a_look_alike_that_is_no_object_is_there_as_often_as_it_says(source, story):
    stage = Stage(4, SIZE, np.zeros((4, 2)))
    twins = []
    for seed in range(200):
        layers = source._scene(dice(seed), story, stage)
        named = [layer for layer in layers if layer.named]
        strangers = [layer for layer in layers if not layer.named]
        twins.append(any(one.picture is other.picture for one in named for other in strangers))
    share = TWIN[story]
    assert np.mean(twins) == pytest.approx(share, abs=3 * np.sqrt(share * (1 - share) / len(twins)))


def test_a_look_alike_begins_somewhere_else(source):
    stage, apart = Stage(4, (96, 144), np.zeros((4, 2))), []
    for seed in range(60):
        rng = dice(seed)
        hero = source._thing(rng, stage, (0.14, 0.3))
        twin = synthetic._twin(rng, stage, hero)
        distance = np.hypot(*np.subtract(hero.poses[0].xy, twin.poses[0].xy))
        apart.append(distance >= hero.poses[0].reach_px(hero.picture))
    assert np.mean(apart) > 0.95


def layer(image, x, y, *, named=True, frames=1):
    """Return a thing that lies still with its left top corner at a place."""
    return synthetic._Layer(image, (Pose(middle_of(image, x, y), (1.0, 1.0)),) * frames, np.ones(frames), named)


def test_a_mask_is_where_its_thing_is_more_than_half_opaque_and_nothing_lies_before_it(folder):
    back, front = (read_cutout(folder / f"cutouts/shape-{i}.png") for i in (1, 2))
    ground = scenery(9, 140, 160)
    stage = Stage(1, (140, 160), np.zeros((1, 2)))
    layers = [layer(back, 20, 20), layer(front, 45, 35), layer(back, 70, 60, named=False)]
    rgb, masks = synthetic._draw([Image.fromarray(ground)], layers, stage)

    def placed(image, x, y):
        values = np.zeros((140, 160, 4))
        values[y : y + image.height, x : x + image.width] = np.asarray(image)
        return values

    first, second, stranger = placed(back, 20, 20), placed(front, 45, 35), placed(back, 70, 60)
    solid = [values[..., 3] > 127 for values in (first, second, stranger)]
    assert (solid[0] & solid[1]).any() and (solid[1] & solid[2]).any()
    assert np.array_equal(masks[0, 0], solid[0] & ~solid[1] & ~solid[2])
    assert np.array_equal(masks[0, 1], solid[1] & ~solid[2])
    expected = ground.astype(float)
    for values in (first, second, stranger):
        expected = expected * (1 - values[..., 3:] / 255) + values[..., :3]
    assert np.allclose(rgb[0], expected, atol=0.01)


def test_a_shadow_darkens_and_hides_nothing(folder, monkeypatch):
    monkeypatch.setattr(synthetic, "SHADOW", 1.0)
    thing = read_cutout(folder / "cutouts/shape-1.png")
    under, over = layer(thing, 20, 20), layer(thing, 60, 30)
    stage, ground = Stage(1, (120, 160), np.zeros((1, 2))), [Image.fromarray(scenery(9, 120, 160))]
    shaded = synthetic._with_shadows(dice(1), [under, over])
    assert [one.named for one in shaded] == [False, True, False, True]
    plain_rgb, plain_masks = synthetic._draw(ground, [under, over], stage)
    rgb, masks = synthetic._draw(ground, shaded, stage)
    assert np.array_equal(masks, plain_masks)
    assert (rgb <= plain_rgb + 0.01).all() and (rgb < plain_rgb - 10).any()


def test_a_crumb_of_a_thing_counts_as_hidden(folder, monkeypatch):
    monkeypatch.setattr(synthetic, "CRUMB", 0.05)
    shares = [
        told(folder, "stays").clip(dice(seed), frames=6, size_hw=SIZE).masks.mean(axis=(2, 3)) for seed in range(20)
    ]
    every = np.concatenate([share.ravel() for share in shares])
    assert (every == 0).any() and every[every > 0].min() >= 0.05


def test_emoji_for_evaluation_are_never_trained_on_in_any_style(folder):
    training = {path.name for style in SyntheticSource(folder)._styles for path in style}
    held = {path.name for style in SyntheticSource(folder, held_out=True)._styles for path in style}
    assert held and not training & held
    assert training | held == {path.name for path in (folder / "cutouts").iterdir()}
    for name in held:
        other_style, found = Path(f"noto-{name.partition('-')[2]}"), Path(f"teacher-{name.partition('-')[2]}")
        assert synthetic._is_held_out(other_style) and not synthetic._is_held_out(found)


def test_things_from_films_come_as_often_as_emoji_however_few_they_are(folder, tmp_path, monkeypatch):
    (tmp_path / "cutouts").mkdir()
    (tmp_path / "backgrounds").symlink_to(folder / "backgrounds")
    for i in range(30):
        emoji(i, 16).save(tmp_path / f"cutouts/{'teacher' if i == 0 else 'fluent'}-{i}.png")
    read = []
    monkeypatch.setattr(synthetic, "read_cutout", lambda path: read.append(path.name) or read_cutout(path))
    source, stage = SyntheticSource(tmp_path), Stage(1, SIZE, np.zeros((1, 2)))
    for seed in range(200):
        source._thing(dice(seed), stage, synthetic.SIZES)
    assert np.mean([name.startswith("teacher") for name in read]) == pytest.approx(0.5, abs=0.11)


@pytest.mark.parametrize("missing", ["cutouts", "backgrounds"])
def test_a_folder_without_prepared_data_says_how_to_make_them(folder, tmp_path, missing):
    for kind in {"cutouts", "backgrounds"} - {missing}:
        (tmp_path / kind).symlink_to(folder / kind)
    with pytest.raises(BadVideo, match=rf"{missing}.*make_training_data\.py"):
        SyntheticSource(tmp_path)


@pytest.mark.parametrize("frames", range(3, 12))
def test_away_means_there_at_both_ends_and_gone_in_one_stretch_between(frames):
    for seed in range(50):
        share = away(dice(seed), frames)
        gone = np.flatnonzero(share == 1)
        assert share[0] == share[-1] == 0
        assert len(gone) and np.array_equal(gone, np.arange(gone[0], gone[-1] + 1))
        course = passing(dice(seed), frames)
        assert np.array_equal(course == 0, share == 1) and (np.diff(course) >= 0).all()
        assert (course[0], course[-1]) == (-1, 1)


def test_a_course_is_reflected_at_its_limits():
    assert fold(np.array([-3.0, 4.0, 12.0, 25.0]), 0.0, 10.0) == pytest.approx([3, 4, 8, 5])


# --- backgrounds ----------------------------------------------------------------------------------------------------


def test_frames_whose_numbers_follow_each_other_are_a_film(folder, tmp_path):
    for name in ("a-00000", "a-00001", "a-00100", "b-c-00101", "b-c-00102", "still"):
        Image.fromarray(scenery(0)).save(tmp_path / f"{name}.jpg")
    films = [[path.stem for path in film] for film in Backgrounds.of(tmp_path).films]
    assert films == [["a-00000", "a-00001"], ["a-00100"], ["b-c-00101", "b-c-00102"], ["still"]]


def test_the_camera_is_said_to_move_as_the_background_does(tmp_path, monkeypatch):
    """A still with one bright spot, seen through a moving window."""
    monkeypatch.setattr(backgrounds, "CAMERA_MOVES", 1.0)
    monkeypatch.setattr(backgrounds, "PACE", 0.004)
    y, x = np.mgrid[:300, :400]
    spot = 255 * np.exp(-((y - 150) ** 2 + (x - 200) ** 2) / 200)
    Image.fromarray(np.stack([spot] * 3, -1).astype(np.uint8)).save(tmp_path / "spot-00000.jpg", quality=95)
    compared = 0
    for seed in range(20):
        pictures, stage = Backgrounds.of(tmp_path).film(dice(seed), frames=5, size_hw=(120, 160))
        grey = np.stack([np.asarray(picture.convert("L"), float) for picture in pictures])
        seen = (grey[:, 10:-10, 10:-10].max(axis=(1, 2)) > 200).all()
        if not seen:
            continue
        tops = np.array([np.unravel_index(frame.argmax(), frame.shape)[::-1] for frame in grey])
        from_middle = np.abs(tops[0] - (80, 60)).max()  # zooming moves what is not in the middle
        assert np.allclose(tops - tops[0], stage.camera_xy, atol=2 + 0.1 * from_middle)
        compared += 1
    assert compared >= 5


def test_backgrounds_are_kept_at_the_students_size_and_are_the_same_each_time(tmp_path, monkeypatch):
    film = write_film(tmp_path / "clip.mp4", 20)
    monkeypatch.setattr(backgrounds, "RUN", 3)
    monkeypatch.setattr(prepared, "LONG_SIDE_PX", 64)
    for out in ("a", "b"):
        assert write_backgrounds([film], tmp_path / out, dice(1), runs=2) == 6
    assert content(tmp_path / "a") == content(tmp_path / "b")
    names = ["clip-00000", "clip-00001", "clip-00002", "clip-00100", "clip-00101", "clip-00102"]
    assert [path.stem for path in sorted((tmp_path / "a").iterdir())] == names
    assert {prepared.read_rgb(path).size for path in (tmp_path / "a").iterdir()} == {(64, 48)}


# --- prepared sequences ---------------------------------------------------------------------------------------------


def test_a_sequence_is_read_back_as_it_was_written(tmp_path):
    masks = dice().random((2, 3, 40, 60)) > 0.5
    masks[1, 2] = False
    pictures = [Image.fromarray(scenery(i, 40, 60)) for i in range(3)]
    write_sequence(tmp_path, "walk", pictures, {"dog": list(masks[0]), "cat": list(masks[1])}, {"dog": {"iou": 0.9}})
    [sequence] = sequences(tmp_path)
    assert list(sequence.frames().values()) == ["00000", "00001", "00002"]
    for i in range(3):
        truth = sequence.truth(f"{i:05d}")
        assert set(truth) == ({"dog", "cat"} if i < 2 else {"dog"})
        assert all(
            np.array_equal(truth[name], masks[row, i]) for row, name in enumerate(("dog", "cat")) if name in truth
        )
    assert json.loads((sequence.truths / prepared.NOTES).read_text()) == {"dog": {"iou": 0.9}}


def test_a_sequence_that_could_not_be_written_whole_is_not_there(tmp_path):
    mask = np.ones((40, 60), bool)
    with pytest.raises(TypeError):
        write_sequence(tmp_path, "walk", [Image.fromarray(scenery(0, 40, 60))], {"dog": [mask]}, {"dog": object()})
    assert not prepared.is_made(tmp_path, "walk")
    write_sequence(tmp_path, "walk", [Image.fromarray(scenery(0, 40, 60))], {"dog": [mask]})
    assert prepared.is_made(tmp_path, "walk")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["Annotations", "JPEGImages"]


def test_a_sequence_without_masks_leaves_only_its_name(tmp_path):
    write_sequence(tmp_path, "empty", [Image.fromarray(scenery(0))], {"dog": [np.zeros((64, 96), bool)]})
    assert prepared.is_made(tmp_path, "empty")
    assert content(tmp_path) == {}


# --- the teacher ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def seen():
    """What the embedded model finds by itself on a frame with a disc and a ball."""
    tracker = Tracker(nano(TEACHER_PX), height=HEIGHT, width=WIDTH)
    return find(tracker, tracker.see(picture(0)))


def test_the_teacher_finds_things_by_itself(seen):
    wholes = [teacher.at_size(found.logits, (HEIGHT, WIDTH)) for found in seen if found.is_whole]
    for truth in (disc(0), ball(0)):
        assert max(iou(mask, truth) for mask in wholes) > 0.85


def test_clicks_lie_inside_the_mask_that_they_mean(seen):
    assert any(found.meant for found in seen)
    for found in seen:
        mask = teacher.at_size(found.logits, (HEIGHT, WIDTH))
        assert set(found.meant) <= set(found.clicks)
        inside = [mask[int(y), int(x)] for x, y in found.meant]
        assert np.mean(inside or [1]) >= 0.5


def test_whole_things_come_first_and_larger_ones_before_smaller(seen):
    assert [found.is_whole for found in seen] == sorted((found.is_whole for found in seen), reverse=True)
    for kind in (True, False):
        areas = [found.area for found in seen if found.is_whole is kind]
        assert areas == sorted(areas, reverse=True)


def test_no_mask_is_tiny_or_everything_or_a_duplicate(seen):
    masks = [found.logits > 0 for found in seen]
    assert all(teacher.AREAS[0] * 0.9 <= mask.mean() <= teacher.AREAS[1] for mask in masks)
    pairs = [(a, b) for i, a in enumerate(masks) for b in masks[:i]]
    assert all(region_similarity(a, b) < teacher.SAME for a, b in pairs)


def disc_logits(radius, *, soft=1.0):
    """Return logits `[24, 32]` of a disc in the middle; a large `soft` makes its border unsure.

    The radius is a little larger than said, so that no cell lies just on the border.
    """
    y, x = np.mgrid[:24, :32]
    return torch.from_numpy((radius + 0.3 - np.hypot(y - 12, x - 16)) * 12 / soft).float()


def readings(*clicks):
    """Choose among readings as the teacher does; each click is three pairs of logits and predicted IoU."""
    logits = torch.stack([torch.stack([reading for reading, _ in click]) for click in clicks])
    return teacher._good(logits, torch.tensor([[value for _, value in click] for click in clicks]), 0)


EVERYTHING = (torch.ones(24, 32) * 9, 0.99)
NOTHING = (torch.ones(24, 32) * -9, 0.99)


def test_readings_that_are_unsure_unstable_or_of_no_size_are_dropped():
    good = readings(
        ((disc_logits(5), 0.95), (disc_logits(7), 0.80), (disc_logits(6, soft=60), 0.95)),
        (EVERYTHING, NOTHING, NOTHING),
    )
    assert good.clicks.tolist() == [0]
    assert (good.logits[0] > 0).sum() == (disc_logits(5) > 0).sum()


@pytest.mark.parametrize(
    ("larger", "is_part"),
    [((disc_logits(9), 0.95), True), ((disc_logits(9, soft=60), 0.8), True), ((disc_logits(9), 0.5), False)],
    ids=["a good one", "a plausible one that is not kept", "one that is not even plausible"],
)
def test_a_mask_is_a_part_if_its_clicks_have_a_larger_reading(larger, is_part):
    good = readings(((disc_logits(5), 0.95), larger, NOTHING))
    found = teacher._merged(good, np.array([[16.0, 12.0]]))
    smallest = min(found, key=lambda one: one.area)
    assert smallest.is_whole is not is_part


def test_the_same_reading_of_several_clicks_is_one_mask_that_knows_them_all():
    good = readings(
        ((disc_logits(7), 0.93), NOTHING, NOTHING),
        ((disc_logits(7.2), 0.97), (disc_logits(7), 0.92), NOTHING),
        ((disc_logits(3), 0.95), NOTHING, NOTHING),
    )
    found = teacher._merged(good, np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
    assert [sorted(one.clicks) for one in sorted(found, key=lambda one: -one.area)] == [
        [(1.0, 2.0), (3.0, 4.0)],
        [(5.0, 6.0)],
    ]
    assert max(found, key=lambda one: one.area).iou == pytest.approx(0.97)


def test_the_grid_covers_a_picture_with_squarish_fields():
    clicks = teacher._grid(90, 160)
    assert len(clicks) == 12 * 7
    assert clicks.min() > 0 and (clicks.max(axis=0) < (160, 90)).all()
    assert teacher._grid(160, 90).shape == clicks.shape


def test_frames_for_the_teacher_are_spread_over_a_clip_by_the_seed_and_the_clips_name():
    moments = [[teacher._moment(Path(name), seed, turn, 4, 100) for turn in range(4)] for name, seed in
               (("a.mp4", 0), ("a.mp4", 0), ("a.mp4", 1), ("b.mp4", 0))]  # fmt: skip
    assert moments[0] == moments[1]
    assert len({tuple(frames) for frames in moments}) == 3
    assert all(25 * turn <= frames[turn] < 25 * (turn + 1) for frames in moments for turn in range(4))


@pytest.fixture
def quick(monkeypatch):
    """A coarse grid and short sequences, so that a film is done in a second."""
    monkeypatch.setattr(teacher, "GRID", 8)
    monkeypatch.setattr(motion, "FRAMES", 5)
    monkeypatch.setattr(motion, "STRIDES", (1,))


def test_the_teachers_masks_are_sequences_of_one_frame_with_notes(tmp_path, quick):
    film = write_film(tmp_path / "clip.mp4")
    told_of = []
    for out in ("a", "b"):
        write_teacher_masks([film], tmp_path / out, nano(TEACHER_PX), seed=4, frames_per_clip=2, report=told_of.append)
    assert content(tmp_path / "a") == content(tmp_path / "b")
    assert len(told_of) == 4
    found = sequences(tmp_path / "a")
    assert len(found) == 2 and len({sequence.name for sequence in found}) == 2
    for sequence in found:
        frame = int(sequence.name.rpartition("-")[2])
        truth = sequence.truth("00000")
        notes = json.loads((sequence.truths / prepared.NOTES).read_text())
        assert set(notes) == set(truth)
        assert max(iou(mask, shape(frame)) for mask in truth.values() for shape in (disc, ball)) > 0.8
        assert all(notes[name]["area"] == pytest.approx(mask.mean(), abs=0.01) for name, mask in truth.items())
    write_teacher_masks([film], tmp_path / "a", nano(TEACHER_PX), seed=4, frames_per_clip=2, report=told_of.append)
    assert len(told_of) == 4, "what is there is not made again"


# --- real motion ----------------------------------------------------------------------------------------------------


def answers(*radii):
    """Return logits of a disc on each frame; radius 0 is nothing."""
    return [disc_logits(radius).numpy() if radius else np.full((24, 32), -9, np.float32) for radius in radii]


SAME = answers(*[8] * 8)


@pytest.mark.parametrize(
    ("forward", "backward", "frames", "names"),
    [
        ({"a": SAME}, {"a": SAME}, range(8), ("a",)),
        ({"a": answers(8, 8, 8, 8, 8, 8, 4, 4)}, {"a": SAME}, range(6), ("a",)),
        ({"a": answers(8, 8, 8, 4, 8, 8, 8, 8)}, {"a": SAME}, range(4, 8), ("a",)),
        ({"a": answers(8, 8, 8, 4, 4, 8, 8, 8)}, {"a": SAME}, range(0), ()),
        ({"a": SAME, "b": answers(8, 8, 8, 8, 4, 4, 4, 4)}, {"a": SAME, "b": SAME}, range(8), ("a",)),
        ({"a": answers(*[8] * 7, 4), "b": SAME}, {"a": SAME, "b": SAME}, range(7), ("a", "b")),
        ({"a": answers(8, 8, 8, 8, 0, 0, 8, 8)}, {"a": answers(8, 8, 8, 8, 0, 0, 8, 8)}, range(4), ("a",)),
        ({"a": SAME, "lost": SAME}, {"a": SAME}, range(8), ("a",)),
        ({}, {}, range(0), ()),
    ],
    ids=["all", "its end lost", "one frame", "two short pieces", "one object costs less", "one frame costs less",
         "both ways lost it", "lost before the end", "nothing"],
)  # fmt: skip
def test_what_is_kept_is_what_both_ways_agree_on(forward, backward, frames, names):
    assert agreement(forward, backward) == (frames, names)


def test_what_moves_is_clicked_and_followed_before_what_lies_still():
    """Two equal patches, of which one blinks; thirty other things lie still."""
    frames = np.full((4, 130, 200, 3), 90, np.uint8)
    frames[1::2, 64:96, 48:80] = 200
    changed = motion.change(list(frames))
    assert changed.shape == (8, 12)
    assert changed[4:6, 3:5].min() > 50 and np.count_nonzero(changed) == 4
    clicks = motion.clicks_on(changed, dice())
    assert {(56.0, 72.0), (72.0, 72.0), (56.0, 88.0), (72.0, 88.0)} <= set(map(tuple, clicks.tolist()))
    assert len(clicks) == motion.CLICKS and (clicks < (200, 130)).all()

    def thing(row, column):
        logits = np.full((32, 48), -9, np.float32)
        logits[row : row + 4, column : column + 4] = 9
        return teacher.Found(logits, 0.9, 0.9, [(0.0, 0.0)], [(0.0, 0.0)])

    still = [thing(row, column) for row in (2, 8, 26) for column in range(2, 42, 4)]
    moving = thing(17, 14)
    chosen = motion.chosen_things([*still, moving], changed, dice())
    assert any(one is moving for one in chosen.values()) and len(chosen) == motion.WHOLES


def test_masks_are_followed_through_frames(quick):
    tracker = Tracker(nano(TEACHER_PX), height=HEIGHT, width=WIDTH, frame_count=FRAMES)
    logits = follow(tracker, [tracker.see(picture(i)) for i in range(FRAMES)], {"disc": disc(0), "ball": ball(0)})
    assert {name: len(frames) for name, frames in logits.items()} == {"disc": FRAMES, "ball": FRAMES}
    for i in range(FRAMES):
        assert iou(teacher.at_size(logits["disc"][i], (HEIGHT, WIDTH)), disc(i)) > 0.8
        assert iou(teacher.at_size(logits["ball"][i], (HEIGHT, WIDTH)), ball(i)) > 0.8


def test_followed_things_are_written_with_their_frames(tmp_path, quick):
    film = write_film(tmp_path / "clip.mp4")
    told_of = []
    write_motion([film], tmp_path / "a", nano(TEACHER_PX), seed=1, per_clip=1, report=told_of.append)
    [sequence] = sequences(tmp_path / "a")
    start = int(sequence.name.split("-")[1])
    assert sequence.name in told_of[0]
    stems = sequence.frames().values()
    assert len(stems) >= motion.LEAST_FRAMES
    fits = [max(iou(mask, disc(start + int(stem))) for mask in sequence.truth(stem).values()) for stem in stems]
    assert min(fits) > 0.8
    write_motion([film], tmp_path / "a", nano(TEACHER_PX), seed=1, per_clip=1, report=told_of.append)
    assert len(told_of) == 1, "what is there is not made again"


def test_a_film_without_things_is_tried_once(tmp_path, quick):
    film = tmp_path / "black"
    film.mkdir()
    for i in range(6):
        Image.new("RGB", (64, 48)).save(film / f"{i}.png")
    told_of = []
    for _ in range(2):
        write_motion([film], tmp_path / "out", nano(TEACHER_PX), seed=1, per_clip=1, report=told_of.append)
    assert len(told_of) == 1 and content(tmp_path / "out") == {}


def test_of_sequences_with_true_masks_only_annotated_frames_are_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(prepared, "LONG_SIDE_PX", 64)
    pictures, masks = tmp_path / "true/JPEGImages/walk", tmp_path / "true/Annotations/walk"
    pictures.mkdir(parents=True)
    masks.mkdir(parents=True)
    for i in range(6):
        Image.fromarray(picture(i)).save(pictures / f"frame_{i:06d}.jpg")
    for i in (0, 3, 5):
        labels = disc(i).astype(np.uint8) + 2 * ball(i).astype(np.uint8) * (i != 3)
        Image.fromarray(labels).save(masks / f"frame_{i:06d}.png")
    write_true_masks(tmp_path / "true", tmp_path / "out")
    [sequence] = sequences(tmp_path / "out")
    assert sequence.frames() == {0: "00000", 1: "00001", 2: "00002"}
    assert [set(sequence.truth(f"{i:05d}")) for i in range(3)] == [{"1", "2"}, {"1"}, {"1", "2"}]
    small = np.asarray(Image.fromarray(disc(3)).resize((64, 48), Image.Resampling.BOX))
    assert iou(sequence.truth("00001")["1"], small) > 0.9
    write_true_masks(tmp_path / "true", tmp_path / "out")
    Image.fromarray(picture(0)).resize((32, 24)).save(pictures / "frame_000000.jpg")
    with pytest.raises(BadVideo, match=rf"the masks of walk are {WIDTH}x{HEIGHT} in .*, but its pictures 32x24"):
        write_true_masks(tmp_path / "true", tmp_path / "other")


# --- everything -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def script():
    return load_script("make_training_data")


@pytest.fixture
def made(script, tmp_path, monkeypatch, quick):
    """Return a function that makes everything out of one small film and eight emoji into a folder."""
    clips, assets = tmp_path / "clips", tmp_path / "package/assets"
    clips.mkdir()
    assets.mkdir(parents=True)
    write_film(clips / "clip.mp4")
    for i in range(24):
        emoji(i).save(assets / f"{i:x}.webp", lossless=True)
    with tarfile.open(tmp_path / "emoji.tgz", "w:gz") as archive:
        archive.add(assets, "package/assets")
    mask = disc(0).astype(np.uint8)
    for kind, image in (("JPEGImages", Image.fromarray(picture(0))), ("Annotations", Image.fromarray(mask))):
        (tmp_path / "true" / kind / "walk").mkdir(parents=True)
        image.save(tmp_path / "true" / kind / "walk" / f"0.{'jpg' if kind == 'JPEGImages' else 'png'}")
    for name, value in {"RUNS": 1, "TEACHER_FRAMES": 1, "MOTIONS": 1, "RETURNS": 2, "RETURN_FRAMES": 4}.items():
        monkeypatch.setattr(script, name, value)
    monkeypatch.setattr(script, "load_teacher", lambda weights: nano(TEACHER_PX))

    def make(out, *more):
        options = {"--clips": clips, "--true-masks": tmp_path / "true", "--weights": "nano"}
        options |= {"--emoji": tmp_path / "emoji.tgz", "--out": tmp_path / out}
        words = [str(word) for pair in options.items() for word in pair]
        monkeypatch.setattr("sys.argv", ["make_training_data.py", *words, *more])
        script.main()
        return tmp_path / out

    return make


def test_one_command_makes_everything_and_the_same_again(made, capsys):
    first = made("a", "--seed", "3")
    assert content(first) == content(made("b", "--seed", "3"))
    assert {path.name for path in first.iterdir()} == {
        "backgrounds",
        "cutouts",
        "motion",
        "returns",
        "teacher",
        "true",
    }
    assert any(path.name.startswith("teacher-clip-") for path in (first / "cutouts").iterdir())
    for dataset in ("motion", "teacher", "true"):
        assert FolderSource(first / dataset).clip(dice(), frames=3, size_hw=SIZE).masks.any()
    for sequence in sequences(first / "returns"):
        seen = [bool(sequence.truth(stem)) for stem in ("00000", "00001", "00002", "00003")]
        assert len(seen) == 4 and seen[0] and seen[-1] and not all(seen)
    assert "no frame of it is evaluation-only" in capsys.readouterr().out


def test_a_stopped_run_goes_on_where_it_was(made):
    parts = [word for part in ("cutouts", "true", "teacher") for word in ("--only", part)]
    whole = content(made("a", *parts))
    made("b", "--only", "teacher")
    assert content(made("b", *parts)) == whole


def test_a_part_that_lacks_what_it_needs_says_so(script, monkeypatch, tmp_path):
    monkeypatch.setattr("sys.argv", ["make_training_data.py", "--out", str(tmp_path), "--only", "backgrounds"])
    with pytest.raises(SystemExit, match="--clips is missing"):
        script.main()


def test_a_dataset_is_forbidden_by_the_lines_that_the_command_prints(script, monkeypatch, tmp_path, capsys):
    (tmp_path / "private/JPEGImages/walk").mkdir(parents=True)
    Image.fromarray(scenery(7)).save(tmp_path / "private/JPEGImages/walk/3.png")
    monkeypatch.setattr("sys.argv", ["make_training_data.py", "--forbid", str(tmp_path / "private")])
    script.main()
    (tmp_path / guard.LIST).write_text(capsys.readouterr().out)
    monkeypatch.setattr(guard, "files", lambda package: tmp_path)
    guard._forbidden.cache_clear()
    try:
        assert evaluation_frame(scenery(7)) == "private/walk/3"
    finally:
        guard._forbidden.cache_clear()
