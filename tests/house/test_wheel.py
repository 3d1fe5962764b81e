"""What people install: the wheel has all it needs to work, and nothing else."""

import os
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "masklet"
KEPT = {".py", ".typed", ".safetensors"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build the wheel, away from the checkout, with what is installed."""
    copy = tmp_path_factory.mktemp("build") / "masklet"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, copy)
    shutil.copytree(SOURCE, copy / "src" / "masklet", ignore=shutil.ignore_patterns("__pycache__"))
    out = copy.parent / "wheel"
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--wheel-dir", out, copy], check=True, capture_output=True)
    [path] = out.iterdir()
    return path


@pytest.mark.slow
def test_the_wheel_holds_every_source_file_the_model_and_the_licences(wheel):
    assert wheel.name == f"masklet-{version('masklet')}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as held:
        names = set(held.namelist())
        about = f"masklet-{version('masklet')}.dist-info"
        assert b"masklet = masklet.cli:main" in held.read(f"{about}/entry_points.txt")
        described = held.read(f"{about}/METADATA").decode()
    ours = {f"masklet/{path.relative_to(SOURCE)}" for path in SOURCE.rglob("*") if path.suffix in KEPT}
    models = {f"masklet/embedded/{name}.safetensors" for name in ("nano", "nano-fine")}
    assert models | {"masklet/py.typed", "masklet/__main__.py"} <= ours <= names
    assert {f"{about}/licenses/LICENSE", f"{about}/licenses/NOTICE"} <= names
    assert not [name for name in names if name.startswith(("tests", "bench", "scripts", "examples"))]
    assert "License-Expression: Apache-2.0" in described
    assert "click on things in a video" in described.lower()


@pytest.mark.slow
def test_what_the_wheel_holds_works_alone(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as held:
        held.extractall(tmp_path / "site")
    path = f"{tmp_path / 'site'}{os.pathsep}{os.environ['PYTHONPATH']}"
    command = [sys.executable, "-m", "masklet", "models", "verify", "nano"]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"nano: {tmp_path / 'site' / 'masklet' / 'embedded' / 'nano.safetensors'}, ")
