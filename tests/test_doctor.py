"""What `masklet doctor` looks at, and what it says when something is not as it should be."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import shell

import masklet
from masklet import doctor


def found(subject):
    return {finding.subject: finding for finding in doctor.examine()}[subject]


def examined(cwd, *, before="", **environment):
    """Return what a process of its own finds: subject to (ok, detail)."""
    code = "from masklet.doctor import examine\nfor f in examine(): print(f.subject, f.ok, f.detail, sep='|')"
    done = subprocess.run(
        [sys.executable, "-c", f"import os\n{before}\n{code}"],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    rows = (line.split("|", 2) for line in done.stdout.splitlines())
    return {subject: (ok == "True", detail) for subject, ok, detail in rows}


def test_a_good_installation_has_no_problem_and_says_what_it_has():
    findings = {finding.subject: finding for finding in doctor.examine()}
    assert all(finding.ok for finding in findings.values())
    assert f"masklet {masklet.__version__}, torch " in findings["versions"].detail
    assert f"cpu ({os.cpu_count()} processors, " in findings["devices"].detail
    assert findings["nano"].detail.endswith(" million parameters")
    assert findings["results"].detail.endswith(f" GB free in {os.getcwd()}")


@pytest.mark.parametrize(
    ("subject", "advice"),
    [("temporary files", "set TMPDIR to a larger disk"), ("results", "larger disk, or give --out")],
)
def test_too_little_room_is_a_problem_with_the_way_out(monkeypatch, subject, advice):
    monkeypatch.setattr(doctor, "ROOM_GB", 1e9)
    finding = found(subject)
    assert not finding.ok
    assert finding.detail.endswith(advice)


def test_no_folder_for_temporary_files_is_a_problem_and_no_crash(tmp_path):
    # As on a full disk: Python writes a few bytes to a folder before it takes it for temporary files.
    findings = examined(tmp_path, before=shell.no_file_above(0))
    ok, detail = findings["temporary files"]
    assert not ok
    assert detail.startswith("No usable temporary directory found in")
    assert detail.endswith("set TMPDIR to a folder this user may write to")
    assert findings["nano"][0]


def test_a_folder_that_may_not_be_written_to_is_a_problem(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o555)
    # The last line makes the process what it is after `exec`: without the right to ignore permissions.
    before = f"{shell.DROP_PRIVILEGES}\nif not os.environ.get('AGAIN'): os.environ['AGAIN'] = '1'; import sys; " + (
        "os.execv(sys.executable, sys.orig_argv)"
    )
    ok, detail = examined(tmp_path / "locked", before=before)["results"]
    assert not ok
    assert detail == f"{tmp_path / 'locked'} may not be written to: work elsewhere, or give --out"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.unlink(), "the embedded model nano(-fine)? is missing .*: reinstall masklet"),
        (lambda path: os.truncate(path, 1000), r"nano(-fine)?\.safetensors (is|cannot)"),
    ],
    ids=["missing", "truncated"],
)
@pytest.mark.parametrize("model", ["nano", "nano-fine"])
def test_a_damaged_model_is_a_problem_that_is_named(tmp_path, damage, said, model):
    home = Path(masklet.__file__).parent
    copy = shutil.copytree(home, tmp_path / "masklet", ignore=shutil.ignore_patterns("__pycache__"))
    damage(copy / "embedded" / f"{model}.safetensors")
    path = f"{tmp_path}{os.pathsep}{os.environ['PYTHONPATH']}"
    ok, detail = examined(tmp_path, PYTHONPATH=path)[model]
    assert not ok
    assert str(copy) in detail
    assert re.search(said, detail)
