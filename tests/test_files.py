"""Files appear whole or not at all: through errors, kills, full disks and folders nobody may write to."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from masklet.errors import NoSpace
from masklet.files import Draft, atomic_write, draft_path, make_folder, refusals


def names(folder):
    """Return everything in a folder, hidden files too."""
    return sorted(path.name for path in Path(folder).iterdir())


def run(script, *arguments):
    """Run a script in a process of its own, because it dies, or lives with limits."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


# Whole or not at all


def test_a_file_appears_under_its_name_when_it_is_whole(tmp_path):
    path = tmp_path / "mask.png"
    with atomic_write(path) as draft:
        draft.write(b"first, ")
        draft.write(b"second")
        assert not path.exists()
        [temporary] = names(tmp_path)
        assert temporary.startswith(".")
        assert temporary.endswith(".part")
    assert names(tmp_path) == ["mask.png"]
    assert path.read_bytes() == b"first, second"


def test_an_older_file_stays_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "mask.png"
    path.write_bytes(b"old and longer")
    with atomic_write(path) as draft:
        draft.write(b"new")
        assert path.read_bytes() == b"old and longer"
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("error", [ValueError("half way"), KeyboardInterrupt()])
def test_an_error_leaves_the_folder_as_it_was(tmp_path, error):
    (tmp_path / "mask.png").write_bytes(b"old")
    with pytest.raises(type(error)), atomic_write(tmp_path / "mask.png") as draft:
        draft.write(b"new")
        raise error
    assert names(tmp_path) == ["mask.png"]
    assert (tmp_path / "mask.png").read_bytes() == b"old"


def test_a_killed_process_leaves_the_old_file_and_a_hidden_part(tmp_path):
    (tmp_path / "mask.png").write_bytes(b"old")
    ran = run(
        """
        import os, signal, sys
        from pathlib import Path
        from masklet.files import atomic_write
        with atomic_write(Path(sys.argv[1])) as draft:
            draft.write(b"new")
            os.kill(os.getpid(), signal.SIGKILL)
        """,
        tmp_path / "mask.png",
    )
    assert ran.returncode == -signal.SIGKILL, ran.stderr
    assert (tmp_path / "mask.png").read_bytes() == b"old"
    [part, whole] = names(tmp_path)
    assert part.startswith(".")
    assert part.endswith(".part")
    assert whole == "mask.png"


def test_two_writers_of_one_file_do_not_mix(tmp_path):
    path = tmp_path / "mask.png"
    with atomic_write(path) as first, atomic_write(path) as second:
        first.write(b"a" * 10)
        second.write(b"b" * 5)
    assert path.read_bytes() == b"a" * 10  # the one that ends last
    assert names(tmp_path) == ["mask.png"]


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_a_file_has_the_permissions_that_every_file_of_the_user_has(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        with atomic_write(tmp_path / "mask.png") as draft:
            draft.write(b"new")
    finally:
        os.umask(before)
    assert (tmp_path / "mask.png").stat().st_mode & 0o777 == mode


def test_the_longest_legal_name_has_room_for_its_draft(tmp_path):
    name = "x" * 251 + ".png"
    with atomic_write(tmp_path / name) as draft:
        draft.write(b"new")
    assert names(tmp_path) == [name]


# Drafts


def test_a_draft_is_written_again_from_any_place_and_ends_there(tmp_path):
    draft = Draft(tmp_path / "manifest.json")
    draft.write(b"head, tail")
    draft.write(b"body", at=6)
    assert (draft.size, draft.read(0, 100), draft.read(6, 2)) == (10, b"head, body", b"bo")
    draft.write(b"!", at=4)
    draft.publish()
    assert (tmp_path / "manifest.json").read_bytes() == b"head!"


def test_a_discarded_draft_leaves_no_trace_and_may_be_discarded_again(tmp_path):
    draft = Draft(tmp_path / "mask.png")
    draft.write(b"new")
    draft.discard()
    draft.discard()
    assert names(tmp_path) == []


def test_discarding_does_nothing_to_a_published_file(tmp_path):
    draft = Draft(tmp_path / "mask.png")
    draft.write(b"new")
    draft.publish()
    draft.discard()
    assert (tmp_path / "mask.png").read_bytes() == b"new"


def test_those_who_need_a_name_get_one_that_is_renamed(tmp_path):
    path = tmp_path / "deep" / "weights.safetensors"
    with draft_path(path) as draft:
        draft.write_bytes(b"weights")
        assert not path.exists()
        assert draft.parent == path.parent
    assert names(path.parent) == ["weights.safetensors"]
    with pytest.raises(RuntimeError), draft_path(path) as draft:
        draft.write_bytes(b"half")
        raise RuntimeError
    assert names(path.parent) == ["weights.safetensors"]
    assert path.read_bytes() == b"weights"


def test_a_name_that_nobody_used_is_nothing_to_rename(tmp_path):
    with pytest.raises(NoSpace, match=r"Cannot write .*weights"), draft_path(tmp_path / "weights"):
        pass
    assert names(tmp_path) == []


# Disks that are full. A limit on a file's size makes the kernel refuse in the middle of a write, as a full disk does.

LIMITED = """
import resource, sys
from pathlib import Path
from masklet.errors import NoSpace
from masklet.files import Draft, atomic_write
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
path = Path(sys.argv[1])
"""


def test_without_room_nothing_is_left_and_the_error_says_what_to_do(tmp_path):
    (tmp_path / "mask.png").write_bytes(b"old")
    ran = run(
        LIMITED
        + """
try:
    with atomic_write(path) as draft:
        draft.write(b"x" * 900)
        draft.write(b"y" * 900)
except NoSpace as problem:
    print(problem)
""",
        tmp_path / "mask.png",
    )
    assert ran.stdout.startswith(f"Cannot write {tmp_path / 'mask.png'}: File too large ("), ran.stderr
    assert " MB free of " in ran.stdout
    assert ran.stdout.endswith("Make room or choose another folder; finished files are kept.\n")
    assert names(tmp_path) == ["mask.png"]
    assert (tmp_path / "mask.png").read_bytes() == b"old"


def test_a_write_that_does_not_fit_leaves_the_draft_as_it_was(tmp_path):
    ran = run(
        LIMITED
        + """
draft = Draft(path)
draft.write(b"x" * 900)
try:
    draft.write(b"y" * 900)  # 100 bytes of it fit, and are taken back
except NoSpace:
    [part] = path.parent.iterdir()
    assert part.stat().st_size == 900, "what fitted is taken back, to make room"
    draft.write(b"z" * 50)
    draft.publish()
""",
        tmp_path / "mask.png",
    )
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "mask.png").read_bytes() == b"x" * 900 + b"z" * 50


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_no_space(tmp_path):
    said = r"No space left on device \(.* MB free of .* MB\)\. Make room or choose another folder"
    with pytest.raises(NoSpace, match=said), refusals(tmp_path / "mask.png"), open("/dev/full", "wb", 0) as full:
        full.write(b"x")


# Folders


def test_a_folder_and_those_above_it_are_made_once(tmp_path):
    for _ in range(2):
        make_folder(tmp_path / "a" / "b" / "c")
    assert (tmp_path / "a" / "b" / "c").is_dir()


def missing_folder(root):
    return root / "missing" / "mask.png", "The folder was never made, or somebody removed it: make it, or choose"


def file_for_a_folder(root):
    (root / "file").write_text("in the way")
    return root / "file" / "mask.png", "A file stands where a folder must be, or the reverse: choose another"


def folder_for_a_file(root):
    (root / "mask.png").mkdir()
    return root / "mask.png", "A file stands where a folder must be, or the reverse: choose another"


def long_name(root):
    return root / ("x" * 300), "Choose a shorter name."


@pytest.mark.parametrize(
    ("write", "case"),
    [
        (atomic_write, missing_folder),
        (atomic_write, file_for_a_folder),
        (atomic_write, folder_for_a_file),
        (atomic_write, long_name),
        (draft_path, folder_for_a_file),
        (draft_path, long_name),
    ],
)
def test_what_the_file_system_refuses_is_said_with_the_way_out(tmp_path, write, case):
    path, advice = case(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(NoSpace) as refusal, write(path) as draft:
        draft.write_bytes(b"new") if isinstance(draft, Path) else draft.write(b"new")
    assert f"Cannot write {path}: " in str(refusal.value)
    assert advice in str(refusal.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_file_where_a_folder_should_be_is_said(tmp_path):
    (tmp_path / "out").write_text("in the way")
    with pytest.raises(NoSpace, match="A file stands where a folder must be"):
        make_folder(tmp_path / "out")


def test_a_folder_nobody_may_write_to_is_said(tmp_path):
    folder = tmp_path / "read-only"
    folder.mkdir(mode=0o500)
    ran = run(
        """
        import os, sys
        from pathlib import Path
        from masklet.errors import NoSpace
        from masklet.files import atomic_write
        if os.geteuid() == 0:
            os.setuid(65534)  # root may write anywhere, so be nobody
        try:
            with atomic_write(Path(sys.argv[1])):
                pass
        except NoSpace as problem:
            print(problem)
        """,
        folder / "mask.png",
    )
    assert f"Cannot write {folder / 'mask.png'}: Permission denied" in ran.stdout, ran.stderr
    assert ran.stdout.endswith("Choose a folder this user may write to, or change its permissions.\n")
    assert names(folder) == []
