"""Models on datasets with true masks: the folders people have, the numbers that vos-benchmark has, and the pictures."""

import json
import subprocess
import sys
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from click.testing import CliRunner
from clips import FRAMES, HEIGHT, WIDTH, ball, disc, nano, picture, write_folder
from PIL import Image

from masklet.cli import cli
from masklet.dataset import sequences
from masklet.errors import BadVideo, Cancelled, NoSpace
from masklet.evaluate import (
    MOST_STRIPS,
    Measured,
    Report,
    Score,
    click_where_wrong,
    evaluate,
    evaluations,
    exclusive,
    save,
    summary,
)
from masklet.masks import FrameMasks
from masklet.session import Session
from masklet.sheet import PICTURE_PX, TITLE_PX

SAME = 1e-9
"""The requirement is four digits."""
EMPTY = np.zeros((HEIGHT, WIDTH), bool)
PALETTE = [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0] * 64


def write_pictures(folder, *, name="{:05d}.jpg", frames=range(FRAMES), size=None):
    folder.mkdir(parents=True)
    for frame in frames:
        image = Image.fromarray(picture(frame % FRAMES))
        (image if size is None else image.resize(size)).save(folder / name.format(frame), quality=95)


def labels(*masks):
    """Return a picture of object numbers, the later on top."""
    numbers = np.zeros((HEIGHT, WIDTH), np.uint8)
    for number, mask in enumerate(masks, start=1):
        numbers[mask] = number
    return numbers


def write_truth(path, numbers):
    """Write object numbers as DAVIS 2017 does, with a palette."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(numbers)
    image.putpalette(PALETTE)
    image.save(path)


def write_binary(path, mask, *, inside=255):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask.astype(np.uint8) * np.uint8(inside)).save(path)


def davis_2016(root):
    write_pictures(root / "JPEGImages/480p/disc")
    for frame in range(FRAMES):
        write_binary(root / f"Annotations/480p/disc/{frame:05d}.png", disc(frame))
    write_pictures(root / "JPEGImages/1080p/disc", size=(4 * WIDTH, 4 * HEIGHT))  # DAVIS has both; 480p is scored
    return root


def davis_2017(root):
    for sequence in ("one", "two"):
        write_pictures(root / f"JPEGImages/480p/{sequence}")
        for frame in range(FRAMES):
            masks = (ball(frame),) if sequence == "one" else (disc(frame), ball(frame))
            write_truth(root / f"Annotations/480p/{sequence}/{frame:05d}.png", labels(*masks))
    write_pictures(root / "JPEGImages/480p/test-dev")  # pictures whose masks are secret
    return root


def mose(root):
    """Write a dataset whose ball comes late, and whose disc is gone for two frames."""
    write_pictures(root / "JPEGImages/late")
    for frame in range(FRAMES):
        masks = (EMPTY if frame in (3, 4) else disc(frame), EMPTY if frame < 2 else ball(frame))
        write_truth(root / f"Annotations/late/{frame:05d}.png", labels(*masks))
    return root


def sa_v(root):
    """Write a dataset with pictures at twice the rate of masks, a folder an object, and unequal frames."""
    write_pictures(root / "JPEGImages_24fps/sav_1", frames=range(16))
    for frame in range(0, 16, 2):
        masks = {"000": disc(frame % FRAMES), "001": ball(frame % FRAMES) if frame >= 4 else EMPTY}
        for name, mask in masks.items():
            if (name, frame) not in {("001", 0), ("001", 8)}:
                write_binary(root / f"Annotations_6fps/sav_1/{name}/{frame:05d}.png", mask)
    return root


LAYOUTS = {
    davis_2016: [("disc", "255")],
    davis_2017: [("one", "1"), ("two", "1"), ("two", "2")],
    mose: [("late", "1"), ("late", "2")],
    sa_v: [("sav_1", "000"), ("sav_1", "001")],
}


def by_object(report):
    return {(score.sequence, score.object): score for score in report.scores}


@pytest.fixture(scope="module")
def measured_layout(tmp_path_factory):
    """Write a layout and measure nano on it, by masks, once."""

    @cache
    def measure(layout):
        root = layout(tmp_path_factory.mktemp("data"))
        return root, evaluate(root, nano(), prompt="mask")

    return measure


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_read_and_its_objects_are_found(measured_layout, layout):
    _, report = measured_layout(layout)
    assert list(by_object(report)) == list(LAYOUTS[layout])
    assert report.complete
    assert all(0 < score.j <= 1 and 0 < score.f <= 1 for score in report.scores)
    if layout is not sa_v:  # there the clip starts again in the middle, and the objects jump
        assert min(score.j for score in report.scores) > (0.6 if layout is mose else 0.85)


# The same masks by vos-benchmark: predictions are tracked and written as pictures by the test, then scored by it.

BENCHMARK = """
import json, sys
from vos_benchmark.benchmark import benchmark
jf, j, f, objects = benchmark([sys.argv[1]], [sys.argv[2]], num_processes=1, verbose=False)
scores = {name: {str(label): [js[label], fs[label]] for label in js} for name, (js, fs) in objects[0].items()}
json.dump({"mean": [jf[0], j[0], f[0]], "objects": scores}, sys.stdout)
"""


def vos_benchmark(truths, answers):
    """Score folders of pictures, `SEQUENCE/FRAME.png`; the package leaves the process when something is missing."""
    ran = subprocess.run(
        [sys.executable, "-c", BENCHMARK, str(truths), str(answers)], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def track(pictures, prompts, network):
    """Track masks given as (object, frame, mask), and yield each frame's answers."""
    with Session(pictures, network, keep_logits=True) as session:
        for name, frame, mask in prompts:
            session.add_mask(name, frame, mask)
        yield from session.track("forward")


def write_answers(folder, stems, answers):
    """Write tracked masks as one picture of object numbers a frame, empty before the first."""
    for stem in stems:
        write_truth(folder / f"{stem}.png", labels())
    for masks in answers:
        numbers = np.zeros((HEIGHT, WIDTH), np.uint8)
        highest = masks.logits.argmax(axis=0)
        for row, name in enumerate(masks.objects):
            numbers[masks.masks[row] & (highest == row)] = int(name)
        write_truth(folder / f"{stems[masks.frame]}.png", numbers)


@pytest.mark.parametrize(
    ("layout", "inner", "prompts"),
    [
        (davis_2016, "480p", {"disc": [("255", 0, disc(0))]}),
        (davis_2017, "480p", {"one": [("1", 0, ball(0))], "two": [("1", 0, disc(0)), ("2", 0, ball(0))]}),
        (mose, "", {"late": [("1", 0, disc(0)), ("2", 2, ball(2))]}),
    ],
)
def test_whole_folders_have_the_scores_of_vos_benchmark(tmp_path, measured_layout, layout, inner, prompts):
    root, report = measured_layout(layout)
    for name, said in prompts.items():
        stems = [f"{frame:05d}" for frame in range(FRAMES)]
        answers = track(root / "JPEGImages" / inner / name, said, nano())
        write_answers(tmp_path / "answers" / name, stems, answers)
    expected = vos_benchmark(root / "Annotations" / inner, tmp_path / "answers")
    assert by_object(report).keys() == {(n, o) for n, objects in expected["objects"].items() for o in objects}
    for (sequence, name), score in by_object(report).items():
        assert (100 * score.j, 100 * score.f) == pytest.approx(expected["objects"][sequence][name], abs=SAME)
    means = summary(report, name="nano", prompt="mask")["mean"]
    assert [100 * means[key] for key in ("jf", "j", "f")] == pytest.approx(expected["mean"], abs=SAME)


def test_objects_with_pictures_of_their_own_are_scored_one_by_one(tmp_path, measured_layout):
    root, report = measured_layout(sa_v)
    # SA-V's own script scores each object's folder as vos-benchmark scores a sequence.
    truths = root / "Annotations_6fps/sav_1"
    said = [("000", 0, disc(0)), ("001", 4, ball(4))]
    for masks in track(root / "JPEGImages_24fps/sav_1", said, nano()):
        for name, mask in zip(masks.objects, masks.masks, strict=True):
            write_binary(tmp_path / f"answers/{name}/{masks.frame:05d}.png", mask)
    write_binary(tmp_path / "answers/001/00002.png", EMPTY)
    expected = vos_benchmark(truths, tmp_path / "answers")
    for (_, name), score in by_object(report).items():
        assert (100 * score.j, 100 * score.f) == pytest.approx(expected["objects"][name]["255"], abs=SAME)


# Prompts and rounds


@pytest.mark.parametrize("prompt", ["box", "click", "3-clicks"])
def test_every_kind_of_prompt_finds_the_object(tmp_path, prompt):
    report = evaluate(davis_2016(tmp_path), nano(256), prompt=prompt)
    assert by_object(report)["disc", "255"].jf > 0.95


def both(root):
    """Write a sequence whose one object is the disc and the ball together, which one click cannot say."""
    write_pictures(root / "JPEGImages/both", frames=range(5))
    for frame in range(5):
        write_truth(root / f"Annotations/both/{frame:05d}.png", labels(disc(frame) | ball(frame)))
    return root


def test_three_clicks_say_more_than_one(tmp_path):
    root = both(tmp_path)
    one, three = (evaluate(root, nano(448), prompt=prompt).mean(lambda s: s.jf) for prompt in ("click", "3-clicks"))
    assert three > one + 0.1


def test_corrective_clicks_raise_the_score_round_by_round(tmp_path):
    report = evaluate(both(tmp_path), nano(448), prompt="click", rounds=2)
    [score] = report.scores
    assert len(score.rounds) == len(report.rounds) == 3
    assert report.rounds[0] == pytest.approx(evaluate(tmp_path, nano(448), prompt="click").mean(lambda s: s.jf))
    assert score.rounds[-1] == pytest.approx(score.jf)
    assert score.jf > score.rounds[0] + 0.1
    assert "J&F by round: " + ", ".join(f"{100 * jf:.1f}" for jf in score.rounds) in report.table("nano", "click")


def test_a_corrective_click_is_negative_where_the_mask_has_too_much(tmp_path):
    with Session(write_folder(tmp_path / "pictures", frames=1), nano(448)) as session:
        too_much = session.add_mask("disc", 0, disc(0) | ball(0))["disc"]
        click_where_wrong(session, "disc", 0, too_much, disc(0))
        mask = session.preview(0)["disc"]
        assert (mask[disc(0)].mean() > 0.9, mask[ball(0)].mean() < 0.1) == (True, True)
        click_where_wrong(session, "disc", 0, mask, mask)  # nothing is wrong any more
        assert np.array_equal(session.preview(0)["disc"], mask)


def test_speed_is_that_of_the_first_round(tmp_path):
    report = evaluate(davis_2016(tmp_path), nano(), prompt="mask", rounds=1)
    assert report.sequences[0].frames == FRAMES
    assert report.frames_per_second == FRAMES / report.sequences[0].seconds


def test_masks_do_not_overlap_where_the_truth_does_not():
    logits = np.array([[[3, 1, -1, -2]], [[2, 2, 1, -1]]], np.float32)
    ones = np.ones(2, np.float32)
    masks = FrameMasks(0, 0.0, ("a", "b"), logits > 0, object_scores=ones, ious=ones, logits=logits)
    assert {name: mask.tolist() for name, mask in exclusive(masks).items()} == {
        "a": [[True, False, False, False]],
        "b": [[False, True, True, False]],
    }
    with pytest.raises(ValueError, match="give masks with logits"):
        exclusive(replace(masks, logits=None))


# Reports


def measured(name, *jfs, strip=True, seconds=2.0):
    scores = tuple(Score(name, str(i), jf, jf, (jf,)) for i, jf in enumerate(jfs, start=1))
    grey = round(255 * np.mean(jfs)) if jfs else 0
    return Measured(name, scores, 8, seconds, Image.new("RGB", (60, 10), (grey,) * 3) if strip and jfs else None)


def test_means_are_over_objects_and_the_table_has_sequences_worst_first():
    report = Report((measured("good", 0.9), measured("bad", 0.2, 0.4, seconds=4.0), measured("none")), complete=True)
    assert report.mean(lambda s: s.j) == pytest.approx(0.5)
    lines = [line.split() for line in report.table("nano 0123", "box").splitlines()]
    assert lines == [
        ["J&F", "J", "F", "frames/s"],
        ["bad", "30.0", "30.0", "30.0", "2.00"],
        ["1", "20.0", "20.0", "20.0"],
        ["2", "40.0", "40.0", "40.0"],
        ["good", "90.0", "90.0", "90.0", "4.00"],
        ["mean", "of", "objects", "50.0", "50.0", "50.0", "2.67"],
        ["nano", "0123,", "prompt", "box,", "3", "objects", "in", "2", "sequences"],
    ]


def test_scores_are_saved_as_json(tmp_path):
    report = Report((measured("good", 0.75), measured("bad", 0.25, 0.5), measured("none")), complete=False)
    save(report, tmp_path / "new" / "folder", name="nano 0123", prompt="box")
    saved = json.loads((tmp_path / "new" / "folder" / "scores.json").read_text())
    assert saved == json.loads(json.dumps(summary(report, name="nano 0123", prompt="box")))
    assert (saved["model"], saved["prompt"], saved["complete"]) == ("nano 0123", "box", False)
    assert saved["mean"] == {"jf": 0.5, "j": 0.5, "f": 0.5}
    assert [s["sequence"] for s in saved["sequences"]] == ["bad", "good"]
    assert saved["sequences"][0]["jf"] == 0.375
    assert saved["left_out"] == ["none"]
    assert [(s["sequence"], s["object"], s["jf"]) for s in saved["scores"]] == [
        ("good", "1", 0.75),
        ("bad", "1", 0.25),
        ("bad", "2", 0.5),
    ]


def test_the_sheet_has_every_strip_below_its_title_worst_on_top(tmp_path):
    save(Report(tuple(measured(f"s{jf}", jf) for jf in (0.8, 0.2, 0.6)), complete=True), tmp_path, name="n", prompt="p")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape == (3 * (TITLE_PX + 10), 60, 3)
    rows = sheet.reshape(3, TITLE_PX + 10, 60, 3)
    assert [int(row[TITLE_PX:].mean()) for row in rows] == [round(255 * jf) for jf in (0.2, 0.6, 0.8)]
    assert all((row[:TITLE_PX] > 200).any() for row in rows)  # each has a title, and no two are the same
    assert len({row[:TITLE_PX].tobytes() for row in rows}) == 3


def test_of_many_sequences_the_worst_and_the_best_have_a_strip():
    jfs = np.random.default_rng(0).permutation(np.linspace(0.01, 0.99, 20)).tolist()
    report = Report((), complete=False)
    for number, jf in enumerate(jfs, start=1):
        report = report.plus(measured(f"s{jf:.2f}", jf), complete=number == len(jfs))
        assert sum(one.strip is not None for one in report.sequences) == min(number, 2 * MOST_STRIPS)
    kept = [one.jf for one in report.measured if one.strip is not None]
    assert kept == sorted(jfs)[:MOST_STRIPS] + sorted(jfs)[-MOST_STRIPS:]
    assert [score.jf for score in report.scores] == jfs
    assert report.complete


def test_strips_show_answers_and_the_truth_in_white(measured_layout):
    _, report = measured_layout(davis_2016)
    strip = np.asarray(report.sequences[0].strip)
    assert strip.shape == (240, 6 * PICTURE_PX, 3)
    first, last = strip[:, :PICTURE_PX], strip[:, -PICTURE_PX:]
    for frame, part in ((0, first), (FRAMES - 1, last)):
        white = (part[30:] == 255).all(axis=2)  # below the label
        ys, xs = np.nonzero(white)
        y, x = np.mean(ys) + 30, np.mean(xs)
        true_ys, true_xs = np.nonzero(disc(frame))
        assert (x / PICTURE_PX, y / 240) == pytest.approx((true_xs.mean() / WIDTH, true_ys.mean() / HEIGHT), abs=0.02)


# What stops it


def test_each_sequence_is_reported_when_it_is_done_and_kept_when_the_rest_is_not(tmp_path):
    root = davis_2017(tmp_path / "data")
    stopped = []

    def progress(done, total):
        stopped.append(total)
        if len(stopped) > FRAMES:  # in the second sequence
            raise Cancelled("enough")

    kept = []
    with pytest.raises(Cancelled):
        for report in evaluations(root, nano(), progress=progress):
            kept.append(report)
            save(report, tmp_path / "out", name="nano", prompt="mask")
    assert [(one.name, report.complete) for report in kept for one in report.sequences] == [("one", False)]
    saved = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert (saved["complete"], [s["sequence"] for s in saved["scores"]]) == (False, ["one"])


def evaluate_by_command(monkeypatch, *options):
    monkeypatch.setattr("masklet.weights.load_network", lambda model, **runs_on: nano())
    return CliRunner().invoke(cli, ["evaluate", *map(str, options)])


def test_the_command_prints_what_was_measured_before_a_file_that_cannot_be_read(tmp_path, monkeypatch):
    root = davis_2017(tmp_path)
    (root / "Annotations/480p/two/00003.png").write_bytes(b"no picture")
    done = evaluate_by_command(monkeypatch, "--dataset", root, "--json")
    assert isinstance(done.exception, BadVideo)
    assert "two/00003.png cannot be read as a mask" in str(done.exception)
    printed = json.loads(done.stdout)
    assert (printed["complete"], [score["sequence"] for score in printed["scores"]]) == (False, ["one"])
    assert "note: 1 sequences were done before it stopped" in done.stderr
    assert evaluate_by_command(monkeypatch, "--dataset", root).stdout.splitlines()[1].startswith("one ")


def test_the_command_prints_what_it_cannot_write(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    root = davis_2016(tmp_path / "data")
    done = evaluate_by_command(monkeypatch, "--dataset", root, "--json", "--out", tmp_path / "file/scores")
    assert isinstance(done.exception, NoSpace)
    assert [score["sequence"] for score in json.loads(done.stdout)["scores"]] == ["disc"]


def test_the_command_has_nothing_to_print_of_a_dataset_that_is_none(tmp_path, monkeypatch):
    done = evaluate_by_command(monkeypatch, "--dataset", tmp_path)
    assert isinstance(done.exception, BadVideo)
    assert (done.stdout, done.stderr) == ("", "")


def test_a_line_says_how_each_sequence_went(tmp_path):
    root, lines = davis_2016(tmp_path), []
    write_pictures(root / "JPEGImages/480p/gone")
    for frame in range(FRAMES):
        write_binary(root / f"Annotations/480p/gone/{frame:05d}.png", disc(0) if frame == 0 else EMPTY)
    report = evaluate(root, nano(), report=lines.append)
    assert lines[0].startswith(f"disc: J&F {100 * report.scores[0].jf:.1f}, ")
    assert lines[0].endswith(" frames/s")
    assert lines[1] == "gone: left out, its masks show no object between the first and the last"
    assert [score.sequence for score in report.scores] == ["disc"]


def test_frames_are_in_the_videos_own_order(tmp_path):
    write_pictures(tmp_path / "JPEGImages/clip", name="{}.jpg", frames=range(12))  # 2 before 10
    for frame in (0, 2, 9, 10, 11):
        write_binary(tmp_path / f"Annotations/clip/{frame}.png", disc(frame % FRAMES))
    [sequence] = sequences(tmp_path)
    assert sequence.frames() == {frame: str(frame) for frame in (0, 2, 9, 10, 11)}


def test_pictures_without_masks_and_folders_without_either_are_no_sequences(tmp_path):
    root = davis_2017(tmp_path)  # with pictures whose masks are secret
    (root / "Annotations/480p/notes").mkdir()
    write_binary(root / "Annotations/480p/.ipynb_checkpoints/00000.png", EMPTY)
    assert [sequence.name for sequence in sequences(root)] == ["one", "two"]


def no_pictures(root):
    (root / "Annotations/dog").mkdir(parents=True)


def no_common(root):
    (root / "Annotations/dog").mkdir(parents=True)
    (root / "JPEGImages/cat").mkdir(parents=True)


def masks_alone(root):
    davis_2016(root)
    for name in ("boat", "car", "dog", "train"):
        write_binary(root / f"Annotations/480p/{name}/00000.png", disc(0))


def objects_alone(root):
    sa_v(root)
    write_binary(root / "Annotations_6fps/sav_2/000/00000.png", disc(0))


def other_names(root):
    write_pictures(root / "JPEGImages/clip")
    write_binary(root / "Annotations/clip/frame-0.png", disc(0))


def broken(root):
    davis_2016(root)
    (root / "Annotations/480p/disc/00003.png").write_bytes(b"\x89PNG\r\n\x1a\nand no more")


def cut(root):
    davis_2016(root)
    path = root / "Annotations/480p/disc/00003.png"
    path.write_bytes(path.read_bytes()[:-40])


def coloured(root):
    davis_2016(root)
    Image.fromarray(picture(0)).save(root / "Annotations/480p/disc/00003.png")


def other_size(root):
    write_pictures(root / "JPEGImages/clip", size=(64, 48))
    for frame in range(FRAMES):
        write_binary(root / f"Annotations/clip/{frame:05d}.png", disc(frame))


def only_ends(root):
    write_pictures(root / "JPEGImages/clip")
    for frame in (0, FRAMES - 1):
        write_binary(root / f"Annotations/clip/{frame:05d}.png", disc(frame))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, "has no folder JPEGImages: give a dataset laid out as DAVIS, MOSE or SA-V"),
        (no_pictures, "has no folder JPEGImages"),
        (no_common, "has no sequence with both pictures and masks"),
        (masks_alone, "4 of 5 sequences have masks in"),
        (masks_alone, "(boat, car, dog, ...): copy their pictures too"),
        (objects_alone, "(sav_2): copy their pictures too"),
        (other_names, "holds no mask of a picture in"),
        (broken, "00003.png cannot be read as a mask"),
        (cut, "00003.png cannot be read as a mask"),
        (coloured, "00003.png is a colour picture: a mask has a palette, or grey values"),
        (other_size, "the masks of clip are 128x96 in"),
        (only_ends, "no mask but the first and the last of a sequence shows an object, so none counts"),
    ],
)
def test_a_dataset_that_cannot_be_scored_is_refused(tmp_path, make, message):
    make(tmp_path)
    with pytest.raises(BadVideo) as refusal:
        evaluate(tmp_path, nano())
    assert message in str(refusal.value)


@pytest.mark.parametrize("inside", [1, 255])
def test_in_a_picture_of_one_object_all_that_is_not_black_is_that_object(tmp_path, inside):
    write_binary(sa_v(tmp_path) / "Annotations_6fps/sav_1/000/00000.png", disc(3), inside=inside)
    [sequence] = sequences(tmp_path)
    assert np.array_equal(sequence.truth("00000")["000"], disc(3))


def test_grey_masks_in_three_channels_are_read(tmp_path):
    root = davis_2016(tmp_path)  # DAVIS 2016 has some
    path = root / "Annotations/480p/disc/00003.png"
    Image.open(path).convert("RGB").save(path)
    [sequence] = sequences(root)
    truth = sequence.truth("00003")
    assert list(truth) == ["255"]
    assert np.array_equal(truth["255"], disc(3))


def test_a_report_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(NoSpace, match="A file stands where a folder must be"):
        save(Report((measured("good", 0.9),), complete=True), tmp_path / "file", name="nano", prompt="box")
