"""Whole runs as one sees them in a terminal: a story is what is typed and what is answered.

In a story, `$ ` begins a command (`> ` goes on with it), and what follows is all that it writes to stdout; `*` stands
for anything in a line and a lone `...` for any lines. A last line such as `[3]` is its exit code, 0 without one.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from clips import write_film, write_folder

STORIES = sorted(Path(__file__).parent.glob("*.txt"))
SMALL_NANO = f"""#!{sys.executable}
from dataclasses import replace
from masklet.model import config
config.NANO = replace(config.NANO, image_px=448)  # enough for small clips, and faster
from masklet.cli import main
main()
"""


@pytest.fixture
def desk(tmp_path):
    """A folder with two clips of 128x96 pixels and eight frames: a disc goes right, a ball below it goes left."""
    folder = tmp_path / "desk"
    folder.mkdir()
    write_film(folder / "clip.mp4")
    write_folder(folder / "pictures")
    return folder


@pytest.fixture
def shell(tmp_path, desk):
    """Type a command at the desk; returns what stdout got and the exit code."""
    binary = tmp_path / "bin" / "masklet"
    binary.parent.mkdir()
    binary.write_text(SMALL_NANO)
    binary.chmod(0o755)
    path = os.pathsep.join((str(binary.parent), str(Path(sys.executable).parent), os.environ["PATH"]))

    def run(command):
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=desk,
            env=os.environ | {"PATH": path, "LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        return done.stdout, done.returncode, done.stderr

    return run


def steps_of(story):
    """Yield each command with the answer that is expected and the exit code."""
    for part in re.split(r"^\$ ", story, flags=re.MULTILINE)[1:]:
        typed, answer = re.fullmatch(r"(.*\n(?:> .*\n)*)((?:.*\n)*)", part).groups()
        lines = [line for line in answer.splitlines() if line and not line.startswith("#")]
        code = int(lines.pop()[1:-1]) if lines and re.fullmatch(r"\[\d+\]", lines[-1]) else 0
        yield typed.replace("\n> ", "\n"), lines, code


def pattern_of(lines):
    """Return what matches an answer."""
    any_lines = r"(?:.*\n)*?"
    return "".join(any_lines if line == "..." else re.escape(line).replace(r"\*", ".*") + r"\n" for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize("path", STORIES, ids=lambda path: path.stem)
def test_story(path, shell):
    for command, expected, code in steps_of(path.read_text()):
        out, ended, err = shell(command)
        assert ended == code, f"$ {command}{out}{err}"
        assert re.fullmatch(pattern_of(expected), out), f"$ {command}{out}expected:\n" + "\n".join(expected)


def test_a_story_that_goes_otherwise_is_noticed():
    [(command, lines, code)] = steps_of(
        "# a comment\n\n$ printf 'a\\n'\n> printf 'b c d\\n'\na\nb * d\n[4]\n\n# another\n"
    )
    assert (command, lines, code) == ("printf 'a\\n'\nprintf 'b c d\\n'\n", ["a", "b * d"], 4)
    assert re.fullmatch(pattern_of(lines), "a\nb c d\n")
    assert not re.fullmatch(pattern_of(lines), "a\nb c\n")
    assert re.fullmatch(pattern_of(["...", "z"]), "x\ny\nz\n")
    assert not re.fullmatch(pattern_of(["x"]), "x\ny\n")
