"""The command line as a person at a terminal, or a script, meets it: real processes, real files, real signals."""

import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import termios
import time
from dataclasses import fields
from fractions import Fraction
from pathlib import Path

import click
import films
import pytest
import shell
from clips import box_around, disc, picture, write_film, write_folder
from PIL import Image
from shell import masklet

import masklet as package
from masklet import cli
from masklet.export import read_manifest
from masklet.request import Request, options
from masklet.segment import Segmented
from masklet.video import open_video

BOX = f"disc:0:{','.join(str(int(n)) for n in box_around(disc(0)))}"
LONG = 500
REPLICATE = {
    "input_video": (str, None, (), None),
    "click_coordinates": (str, None, (), None),
    "click_labels": (str, "1", (), None),
    "click_frames": (str, "0", (), None),
    "click_object_ids": (str, "", (), None),
    "mask_type": (str, "binary", ("binary", "highlighted", "greenscreen"), None),
    "annotation_type": (str, "mask", ("mask", "box", "both"), None),
    "output_video": (bool, False, (), None),
    "video_fps": (int, 30, (), (1, 60)),
    "output_format": (str, "webp", ("webp", "jpg", "png"), None),
    "output_quality": (int, 80, (), (0, 100)),
    "output_frame_interval": (int, 1, (), (1, None)),
}
"""What `meta/sam-2-video` on Replicate takes: kind, default, choices, limits (it states no least interval)."""


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A film of three frames, in a folder whose name a careless command would trip over."""
    folder = tmp_path_factory.mktemp("clips") / "Ein Übungs-Ordner 'mit' $HOME"
    folder.mkdir()
    return write_film(folder / "schöner clip.mp4", frames=3)


@pytest.fixture(scope="module")
def still(tmp_path_factory):
    """A picture, for what one frame can show as well."""
    return write_folder(tmp_path_factory.mktemp("clips") / "still", frames=1) / "0.png"


@pytest.fixture(scope="module")
def longer(tmp_path_factory):
    """A clip that lasts minutes: one of ten seconds was once over before a busy machine had pressed Ctrl-C."""
    return write_folder(tmp_path_factory.mktemp("clips") / "longer", frames=LONG)


@pytest.fixture
def work(tmp_path):
    """An empty folder to work in."""
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


def left_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# Help


@pytest.mark.parametrize("args", [("--help",), ("segment", "--help")])
def test_help_is_there_at_once(args):
    taken = []
    for _ in range(5):
        process = subprocess.Popen([sys.executable, "-m", "masklet", *args], stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        taken.append(used.ru_utime + used.ru_stime)  # what a person waits for when the machine has nothing else to do
    assert min(taken) < 0.3


@pytest.mark.parametrize(
    "args", [["--help"], ["--version"], ["segment", "--help"], ["models", "--help"], ["evaluate", "--help"]]
)
def test_help_waits_for_nothing_heavy(args):
    code = (
        "import sys\nfrom masklet.cli import main\n"
        "try: main()\nexcept SystemExit as end: assert end.code == 0\n"
        "print([name for name in ('torch', 'numpy', 'av', 'PIL', 'huggingface_hub', 'tqdm') if name in sys.modules])"
    )
    said = subprocess.check_output([sys.executable, "-c", code, *args], text=True)
    assert said.splitlines()[-1] == "[]"


@pytest.mark.parametrize("args", [("--help",), ("segment", "--help")])
def test_help_lists_every_exit_code(args, work):
    said = masklet(*args, cwd=work)
    listed = dict(re.findall(r"^ +(\d+) +(\S.*)$", said.out, re.MULTILINE))
    assert {code: int(code) for code in listed} == {str(code): code for code in cli.EXIT_CODES}
    assert set(cli.EXIT_CODES) == {0, 1, 2, 3, 4, 5, 6, 130, 141, 143}


def test_each_command_says_what_it_does(work):
    said = masklet("--help", cwd=work)
    assert (said.code, said.err) == (0, "")
    for name, command in cli.cli.commands.items():
        assert re.search(rf"^  {name} +\w", said.out, re.MULTILINE)
        assert command.help
        assert all(param.help for param in command.params if isinstance(param, click.Option))


def test_the_version_is_the_packages(work):
    assert masklet("--version", cwd=work).out.split()[-1] == package.__version__


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["segmnt", "a.mp4"], "No such command 'segmnt'"),
        (["segment"], "Missing argument 'VIDEO'"),
        (["segment", "a.mp4", "--click-coordinate", "[1,1]"], "Did you mean .*'--click-coordinates'"),
        (["segment", "a.mp4", "--mask-type", "grey"], "'grey' is not one of 'binary', 'highlighted', 'greenscreen'"),
        (["segment", "a.mp4", "--video-fps", "0"], "0 is not in the range 1<=x<=60"),
        (["segment", "a.mp4", "--video-fps", "29.97"], "'29.97' is not a valid integer range"),
        (["segment", "a.mp4", "--output-quality", "101"], "101 is not in the range 0<=x<=100"),
        (["segment", "a.mp4", "--output-frame-interval", "0"], "0 is not in the range x>=1"),
        (["evaluate"], "Missing option '--dataset'"),
    ],
)
def test_wrong_usage_is_code_2_and_says_what_is_right(args, said, work):
    done = masklet(*args, cwd=work)
    assert (done.code, done.out) == (2, "")
    assert re.search(said, done.err)
    assert left_in(work) == []


# Options


def test_the_first_twelve_options_are_replicates():
    ours = {o.name: (o.kind, o.default, o.choices, o.limits) for o in options()[:12]}
    required = {name: ours[name] for name in ("input_video", "click_coordinates")}
    assert {name: (kind, None, choices, limits) for name, (kind, _, choices, limits) in required.items()} | {
        name: option for name, option in ours.items() if name not in required
    } == REPLICATE


def test_every_option_of_a_request_is_a_flag_and_every_flag_an_option():
    params = {param.name: param for param in cli.segment.params}
    assert list(params) == [f.name for f in fields(Request)] + ["as_json"]
    for option in options()[1:]:
        assert params[option.name].opts == [option.flag]
        assert params[option.name].help == option.help
    for name in list(REPLICATE)[1:]:
        assert params[name].opts == ["--" + name.replace("_", "-")]


def given_by(*args):
    context = cli.segment.make_context("segment", list(args))
    return Request(**{name: value for name, value in context.params.items() if name != "as_json"})


def test_without_flags_a_request_has_its_own_defaults():
    assert given_by("a.mp4") == Request("a.mp4")


def test_each_flag_sets_its_option_and_no_other():
    for option in options()[1:]:
        other = option.choices[-1] if option.choices else {int: 2, bool: True, str: "x", tuple: ("x", "y")}[option.kind]
        words = {bool: [option.flag], tuple: [option.flag, "x", option.flag, "y"]}
        asked = given_by("a.mp4", *words.get(option.kind, [option.flag, str(other)]))
        assert asked == Request("a.mp4", **{option.name: other})


# Results


def test_json_on_stdout_is_all_there_is_and_says_everything(clip, work):
    flags = ["--box", BOX, "--out", "Ergebnisse für mich", "--output-format", "png", "--per-object", "--json"]
    done = masklet("segment", clip, *flags, "--click-coordinates", "[96, 68]", cwd=work)
    assert done.code == 0
    made = json.loads(done.out)
    assert list(made) == [f.name for f in fields(Segmented)]
    out = work / "Ergebnisse für mich"
    assert [work / path for path in made["files"]] == [out / f"frame_{frame:05d}.png" for frame in range(3)]
    assert all((work / path).is_file() for path in made["files"])
    assert (work / made["out"], work / made["manifest"]) == (out, out / "manifest.json")
    assert (made["objects"], made["frame_count"], made["model"]) == (["object_1", "disc"], 3, "nano")
    assert made["device"] and made["seconds"] > 0
    manifest = read_manifest(out / "manifest.json")
    asked = Request(str(clip), "[96, 68]", boxes=(BOX,), out=out.name, output_format="png", per_object=True)
    assert manifest["request"] == json.loads(json.dumps(asked.asked()))
    assert "note: click_object_ids is empty: every click is its own object, object_1\n" in done.err
    assert re.search(r"^3 frames, 2 objects \(object_1, disc\) in \d+\.\d s \(.*\) with model nano on ", done.err, re.M)
    assert "'masklet models'" in done.err
    assert "\r" not in done.err


def test_on_a_terminal_progress_shows_rate_and_time_left_and_stdout_only_paths(clip, work):
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    flags = ["--box", BOX, "--output-video", "--mask-type", "highlighted"]
    process = shell.start("segment", clip, *flags, cwd=work, stdout=subprocess.PIPE, stderr=theirs, text=True)
    os.close(theirs)
    shown = b""
    try:
        while select.select([ours], [], [], shell.PATIENCE_S)[0] and (more := os.read(ours, 4096)):
            shown += more
    except OSError:  # Linux says so when the other end of a terminal is closed
        pass
    os.close(ours)
    out, _ = process.communicate(timeout=shell.PATIENCE_S)
    assert process.returncode == 0
    assert out == "schöner clip_masks/output_video.mp4\nschöner clip_masks/manifest.json\n"
    assert re.search(r"67%\|\S+ *\| 2/3 \[\d\d:\d\d<\d\d:\d\d, +\d+\.\d+ frames/s\]", shown.decode())
    assert re.search(r"3 frames, 1 objects? \(disc\) in", shown.decode())
    with open_video(work / out.split("\n")[0]) as film:
        assert (film.frame_count, film.average_rate) == (3, Fraction(30))


def test_in_a_log_each_state_of_progress_is_a_line(monkeypatch, capsys):
    from masklet.segment import Advance

    monkeypatch.setattr(cli, "LOG_EVERY_S", 0.0)
    progress = cli._Progress()
    with progress:
        for done in range(1, 4):
            progress.hear(Advance(done, 3))
    lines = capsys.readouterr().err.splitlines()
    assert [re.search(r"\d/[\d?]", line)[0] for line in lines] == ["0/?", "1/3", "2/3", "3/3"]


# What is refused: (arguments after the video, code, what is said)


def refused(work, args, code, said, **how):
    """Run a command that must fail in one sentence and change nothing."""
    before = left_in(work)
    done = masklet(*args, cwd=work, **how)
    assert (done.code, done.out) == (code, ""), done.err
    assert re.search(said, done.err), done.err
    assert done.err.startswith("masklet: ") and done.err.count("\n") == 1
    assert left_in(work) == before


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        ([], 3, r"nothing says where an object is: give click_coordinates .*--box.*128x96, frames 0\.\.2"),
        (
            ["--click-coordinates", "[128,20]"],
            3,
            r"click_coordinates\[0\]: x = 128 is outside the frame; choose 0\.\.127",
        ),
        (["--click-coordinates", "[20,-1]"], 3, r"click_coordinates\[0\]: y = -1 is outside the frame; choose 0\.\.95"),
        (["--click-coordinates", "[nan,20]"], 3, r"click_coordinates\[0\]: 'nan' is not a finite number"),
        (["--click-coordinates", "[20,30"], 3, r"the bracket at character 1 .* is never closed; write \[x,y\]"),
        (["--click-coordinates", "20,30"], 3, r"'2' at character 1 .*, where '\[' belongs"),
        (["--click-coordinates", "[1,1]", "--click-frames", "3"], 3, r"click_frames\[0\] = 3, .* 3 frames: .* 0\.\.2"),
        (["--click-coordinates", "[1,1]", "--click-labels", "2"], 3, r"click_labels\[0\] = '2': use 1 .* and 0"),
        (["--click-coordinates", "[1,1]", "--click-labels", "0"], 3, "no click is positive"),
        (
            ["--click-coordinates", "[1,1]", "--click-frames", "0,1"],
            3,
            "click_frames has 2 values for 1 point: remove some or add points",
        ),
        (["--box", "disc:0:1,1,200,20"], 3, r"1,1,200,20 leaves the frame; choose x in 0\.\.128"),
        (["--box", "disc:1,1,20,20"], 3, "is not of the form NAME:FRAME:X0,Y0,X1,Y1"),
        (["--box", "disc:7:1,1,20,20"], 3, r"choose one of 0\.\.2, the video has 3 frames"),
        (["--mask", "disc:0:nowhere.png"], 3, "mask nowhere.png does not exist"),
        (["--mask", "disc:0:small.png"], 3, "mask small.png is 5x4, but the video is 128x96"),
    ],
)
def test_a_prompt_that_cannot_be_meant_is_code_3(flags, code, said, clip, work):
    Image.new("L", (5, 4)).save(work / "small.png")
    refused(work, ["segment", clip, *flags], code, said)


@pytest.fixture
def bad(work):
    """A folder with each kind of bad video."""
    film = write_film(work / "good.mp4", frames=3)
    (work / "empty.mp4").touch()
    (work / "truncated.mp4").write_bytes(film.read_bytes()[: film.stat().st_size * 2 // 3])
    (work / "text.mp4").write_text("this is no video\n" * 100)
    (work / "playlist.m3u8").write_text("#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n")
    films.write_film(work / "0-frames.mp4", pictures=[])
    films.write_film(work / "codec.avi", films.Kind("avi", "zmbv", "bgr0"), pictures=[picture(0)])
    (work / "no-pictures").mkdir()
    os.mkfifo(work / "pipe")
    films.write_sound(work / "sound.m4a", films.Sound())
    return work


@pytest.mark.parametrize(
    ("video", "said"),
    [
        ("nowhere.mp4", "nowhere.mp4 does not exist: give the path"),
        ("", "input_video is empty: give the path of a video"),
        ("n" * 300, "cannot be read .File name too long.: check the path"),
        ("https://example.com/dog.mp4", "does not exist: give the path"),
        ("empty.mp4", r"empty.mp4 is empty \(0 bytes\)"),
        ("truncated.mp4", "truncated.mp4 .*(is cut short|cut short or damaged)"),
        ("text.mp4", "text.mp4 is not a video"),
        ("playlist.m3u8", "playlist.m3u8 is not a video|of a kind that masklet does not open"),
        ("sound.m4a", "sound.m4a has sound but no pictures: give a video"),
        ("0-frames.mp4", "0-frames.mp4 has no pictures: give a video"),
        ("codec.avi", r"codec.avi: its codec \(zmbv\) is not one masklet reads; convert it to MP4"),
        ("no-pictures", "no-pictures holds no pictures"),
        ("pipe", "pipe is neither a file nor a folder: save the video to a file first"),
        ("good.mp4/frame", "good.mp4/frame cannot be read .Not a directory.: check the path"),
    ],
)
def test_a_video_that_cannot_be_read_is_code_4(video, said, bad):
    refused(bad, ["segment", video, "--click-coordinates", "[20,20]"], 4, said)


def test_a_video_that_may_not_be_read_is_code_4(bad):
    (bad / "good.mp4").chmod(0)
    said = "good.mp4 may not be read: check its permissions"
    refused(bad, ["segment", "good.mp4", "--box", BOX], 4, said, before=shell.DROP_PRIVILEGES)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            ["--model", "sam2.1-tyni"],
            "model 'sam2.1-tyni' is no file, .*Did you mean sam2.1-tiny.*Known: nano, nano-fine, sam2.1-tiny",
        ),
        (["--device", "warp"], "device 'warp' is not here: choose auto or cpu"),
    ],
)
def test_a_model_that_cannot_be_had_is_code_5(flags, said, bad):
    refused(bad, ["segment", "good.mp4", "--box", BOX, *flags], 5, said)


def test_a_folder_that_cannot_take_results_is_code_6(still, work):
    (work / "locked").mkdir(mode=0o555)
    said = "Cannot write locked/out: Permission denied .*Choose a folder this user may write to"
    refused(work, ["segment", still, "--box", BOX, "--out", "locked/out"], 6, said, before=shell.DROP_PRIVILEGES)


def test_a_full_disk_is_code_6_and_leaves_nothing_half_written(still, work):
    flags = ["--box", BOX, "--mask-type", "highlighted", "--output-format", "png"]
    said = r"Cannot write .*frame_00000.png: File too large \(.* MB free of .* MB\)\. Make room"
    refused(work, ["segment", still, *flags], 6, said, before=shell.no_file_above(4_000))


def test_folder_with_results_is_code_3(clip, work):
    (work / "manifest.json").write_text("{}")
    refused(work, ["segment", clip, "--box", BOX, "--out", "."], 3, r"\. already holds results \(manifest.json\)")


def test_a_read_only_folder_of_the_video_does_not_matter(still, work):
    locked = work / "locked"
    locked.mkdir()
    shutil.copy(still, locked / "dog.png")
    locked.chmod(0o555)
    done = masklet("segment", "locked/dog.png", "--box", BOX, cwd=work, before=shell.DROP_PRIVILEGES)
    assert (done.code, done.out) == (0, "dog_masks/frame_00000.webp\ndog_masks/manifest.json\n")


def test_a_name_that_is_no_text_is_printed_as_it_is(work, still):
    name = os.fsdecode(b"caf\xe9.png")  # Latin-1, as old disks have it
    shutil.copy(still, work / name)
    done = masklet("segment", name, "--box", BOX, cwd=work)
    assert (done.code, os.fsencode(done.out.split("\n")[0])) == (0, b"caf\xe9_masks/frame_00000.webp")


def test_a_bug_is_code_1_and_asks_for_a_report(tmp_path, work):
    broken = shutil.copytree(
        Path(package.__file__).parent, tmp_path / "masklet", ignore=shutil.ignore_patterns("*.safetensors")
    )
    (broken / "doctor.py").write_text("def examine():\n    return 1 / 0\n")
    done = masklet("doctor", cwd=work, PYTHONPATH=f"{tmp_path}{os.pathsep}{os.environ['PYTHONPATH']}")
    assert (done.code, done.out) == (1, "")
    assert "ZeroDivisionError: division by zero" in done.err
    assert done.err.endswith("masklet: this is a bug in masklet: please report it with the lines above\n")


# Stopped


def wait_for(condition, process):
    """Wait until something is so, as long as the process lives."""
    deadline = time.monotonic() + shell.PATIENCE_S
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def ended(process):
    """Return the exit code and what was said."""
    out, err = process.communicate(timeout=shell.PATIENCE_S)
    assert out == "", err
    return process.returncode, err


@pytest.fixture
def running(work, longer):
    """Start a job that speaks into pipes."""
    started = []

    def start(*flags, video=longer, before=""):
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(shell.start("segment", video, "--out", "out", *flags, cwd=work, before=before, **streams))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_ctrl_c_finishes_the_frame_under_way_keeps_it_and_says_so(running, work):
    process = running("--box", BOX)
    wait_for((work / "out/frame_00001.webp").exists, process)
    process.send_signal(signal.SIGINT)
    code, err = ended(process)
    assert code == 130
    manifest = read_manifest(work / "out/manifest.json")
    count = manifest["frame_count"]
    assert 1 <= count < LONG
    assert (manifest["complete"], manifest["message"]) == (False, "stopped by SIGINT")
    assert left_in(work / "out") == [f"frame_{frame:05d}.webp" for frame in range(count)] + ["manifest.json"]
    assert "stopping after this frame; once more stops at once" in err
    assert err.endswith(f"masklet: stopped by SIGINT: {count} finished frames are kept in out\n")


def twice_interrupted(running, work):
    """Press Ctrl-C twice within a frame; on a busy machine the frame may end before the second one arrives."""
    for _ in range(3):
        shutil.rmtree(work / "out", ignore_errors=True)
        process = running("--box", BOX, "--output-video", "--per-object")
        wait_for((work / "out/001_disc/frame_00001.png").exists, process)
        process.send_signal(signal.SIGINT)
        assert any("once more stops at once" in line for line in process.stderr)
        process.send_signal(signal.SIGINT)
        err = process.stderr.read()  # unlike communicate(), which would miss what is buffered by now
        code = process.wait(shell.PATIENCE_S)
        if "finished frames are kept in out" not in err:
            return code, err
    pytest.fail("the second Ctrl-C always came too late")


def test_a_second_ctrl_c_stops_at_once_and_leaves_nothing_half_written(running, work):
    code, err = twice_interrupted(running, work)
    assert code == 130
    assert err.endswith("masklet: stopped at once; finished frames are kept, nothing half-written is left\n")
    assert not any(name.endswith((".part", ".mp4")) for name in left_in(work))
    manifest = read_manifest(work / "out/manifest.json")
    assert (manifest["complete"], manifest["video"]) == (False, None)


def test_sigterm_finishes_the_frame_under_way_and_the_video(running, work):
    process = running("--box", BOX, "--output-video", "--per-object")
    wait_for((work / "out/001_disc/frame_00001.png").exists, process)
    process.send_signal(signal.SIGTERM)
    code, err = ended(process)
    assert code == 143
    manifest = read_manifest(work / "out/manifest.json")
    assert (manifest["complete"], manifest["message"]) == (False, "stopped by SIGTERM")
    with open_video(work / "out/output_video.mp4") as film:
        assert film.frame_count == manifest["frame_count"] >= 2
    assert f"stopped by SIGTERM: {manifest['frame_count']} finished frames are kept in out" in err


def test_ctrl_c_before_the_first_frame_stops_at_once_and_leaves_nothing(running, work):
    process = running("--click-coordinates", "[40,30]")
    assert process.stderr.readline().startswith("note: ")  # before the model is loaded
    process.send_signal(signal.SIGINT)
    err = process.stderr.read()
    code = process.wait(shell.PATIENCE_S)
    assert (code, err) == (130, "masklet: stopped at once; finished frames are kept, nothing half-written is left\n")
    assert left_in(work) == []


def test_a_job_that_is_to_outlive_its_terminal_does(running, clip, work):
    process = running("--box", BOX, video=clip, before="import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)")
    wait_for((work / "out/frame_00000.webp").exists, process)
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=shell.PATIENCE_S)
    assert process.returncode == 0
    assert read_manifest(work / "out/manifest.json")["complete"]


def test_when_nobody_reads_the_results_any_more_it_ends_quietly(work):
    read, write = os.pipe()
    os.close(read)
    process = shell.start("models", cwd=work, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    _, err = process.communicate(timeout=shell.PATIENCE_S)
    assert (process.returncode, err) == (141, "")


def test_when_nobody_reads_the_chat_any_more_work_goes_on(still, work):
    read, write = os.pipe()
    os.close(read)
    flags = ["--click-coordinates", "[40,30]"]
    process = shell.start("segment", still, *flags, cwd=work, stdout=subprocess.PIPE, stderr=write, text=True)
    os.close(write)
    out, _ = process.communicate(timeout=shell.PATIENCE_S)
    assert (process.returncode, out.count("\n")) == (0, 2)


# Other commands


def test_models_lists_every_model_and_where_it_is(work):
    done = masklet("models", cwd=work)
    assert done.code == 0
    lines = done.out.splitlines()
    embedded, others = lines[:2], lines[2:]
    for line, name, size in zip(embedded, ("nano", "nano-fine"), (29, 8), strict=True):
        assert re.fullmatch(rf"{name} +{size} MB  /.+/embedded/{name}\.safetensors", line)
    assert (len(embedded), len(others)) == (2, 8)
    assert all(re.fullmatch(r"sam2(\.1)?-[a-z-]+ +\d+ MB  from facebook/sam2(\.1)?-hiera-[a-z-]+", o) for o in others)
    assert "--model NAME" in done.err


def test_models_as_json(work):
    rows = json.loads(masklet("models", "--json", cwd=work).out)
    assert [list(row) for row in rows] == [["name", "size_mb", "licence", "source", "path"]] * 10
    assert [row["path"] is None for row in rows] == [False] * 2 + [True] * 8


def test_models_verify_says_what_the_file_holds(work):
    done = masklet("models", "verify", cwd=work)
    assert done.code == 0
    assert re.fullmatch(
        r"nano: /.+nano\.safetensors, \d+\.\d million parameters, SHA-256 [0-9a-f]{64} \(.*\)\n", done.out
    )


def test_models_verify_refuses_what_is_no_model(work):
    refused(work, ["models", "verify", "nanno"], 5, "'nanno' is no file.* Did you mean nano")


def test_doctor_finds_this_installation_well(work):
    done = masklet("doctor", "--json", cwd=work)
    assert done.code == 0
    found = {finding["subject"]: finding for finding in json.loads(done.out)}
    assert list(found) == ["versions", "devices", "video", "nano", "nano-fine", "temporary files", "results"]
    assert all(finding["ok"] for finding in found.values())
    assert found["versions"]["detail"].startswith(
        f"Python {sys.version.split()[0]}, masklet {package.__version__}, torch "
    )


def test_doctor_with_a_problem_is_code_1_and_says_the_way_out(work):
    done = masklet("doctor", cwd=work, before=shell.no_file_above(0))
    assert done.code == 1
    lines = done.out.splitlines()
    assert [line.split()[0] for line in lines] == ["ok"] * 5 + ["PROBLEM", "ok"]
    problem = lines[5]
    assert re.search("temporary files .*No usable temporary directory .*set TMPDIR", problem)


def test_evaluate_measures_a_folder_laid_out_as_davis(work, tmp_path):
    (tmp_path / "set/JPEGImages").mkdir(parents=True)
    write_folder(tmp_path / "set/JPEGImages/discs", frames=3)
    truths = tmp_path / "set/Annotations/discs"
    truths.mkdir(parents=True)
    for frame in range(3):
        Image.fromarray(disc(frame).astype("u1")).save(truths / f"{frame}.png")
    done = masklet("evaluate", "--dataset", tmp_path / "set", "--prompt", "box", "--json", "--out", "scores", cwd=work)
    assert done.code == 0
    measured = json.loads(done.out)
    assert measured["mean"]["j"] > 0.85
    assert measured["model"].startswith("nano ") and measured["prompt"] == "box"
    assert "discs: J&F" in done.err
    assert left_in(work) == ["scores", "scores/scores.json", "scores/sheet.png"]
    assert json.loads((work / "scores/scores.json").read_text())["mean"] == measured["mean"]


def test_evaluate_of_no_dataset_is_code_4(work):
    refused(work, ["evaluate", "--dataset", "nowhere"], 4, "nowhere has no folder JPEGImages")
