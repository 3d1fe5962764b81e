"""Documents that cannot lie: examples run, made pages are fresh, public things are written down, links lead on."""

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from pages import blocks_in
from script import load_script

import masklet
from masklet import cli
from masklet.request import options

ROOT = Path(__file__).parents[2]
PAGE_RUNNER = str(Path(__file__).with_name("pages.py"))
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("**/*.md")])
EVERY_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
SMALL = """\
from dataclasses import replace
from masklet.model import config
config.NANO = replace(config.NANO, image_px=112)
"""
"""Lets nano look at 112 instead of 768 pixels: pages then take seconds, and all else is as their readers have it."""


@pytest.fixture(scope="module")
def maker():
    """The script behind `make docs`."""
    return load_script("make_docs")


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks_in(page.read_text())], ids=lambda page: str(page.relative_to(ROOT))
)
def test_every_example_of_a_page_runs(page, tmp_path):
    binaries, desk = tmp_path / "bin", tmp_path / "desk"
    for folder in (binaries, desk / "examples"):
        folder.mkdir(parents=True)
    shutil.copy(ROOT / "examples" / "bunny.mp4", desk / "examples")
    command = binaries / "masklet"
    command.write_text(f"#!{sys.executable}\n{SMALL}from masklet.cli import main\nmain()\n")
    command.chmod(0o755)
    runner = desk.parent / "runner.py"
    runner.write_text(f"{SMALL}import runpy\nrunpy.run_path({PAGE_RUNNER!r}, run_name='__main__')\n")
    path = os.pathsep.join((str(binaries), str(Path(sys.executable).parent), os.environ["PATH"]))
    done = subprocess.run(
        [sys.executable, runner, page], cwd=desk, env=os.environ | {"PATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_a_page_whose_example_fails_is_noticed(tmp_path):
    page = tmp_path / "page.md"
    failing = "```python\nx / 0\n```\n"
    page.write_text(
        f"```sh\ntrue\n```\n<!-- not run: it fails -->\n```sh\nfalse\n```\n\n```python\nx = 1\n```\ntext\n{failing}"
    )
    done = subprocess.run([sys.executable, PAGE_RUNNER, page], capture_output=True, text=True)
    assert done.returncode == 1
    assert f'File "{page}", line 14' in done.stderr
    assert done.stderr.endswith(f"the block at {page}:14 fails\n")


def test_made_pages_are_fresh(maker):
    stale = [path.name for path, text in maker.pages().items() if not path.exists() or path.read_text() != text]
    assert stale == [], "run `make docs`"


def test_every_command_option_and_exit_code_is_on_the_page(maker):
    page = (ROOT / "docs" / "cli.md").read_text()
    for name in cli.cli.commands:
        assert f"\n## masklet {name}\n" in page
    for option in options()[1:]:
        assert f"| `{option.flag}` |" in page
        assert f"| {option.help} |" in page
    assert all(f"| {code} | {meaning} |" in page for code, meaning in cli.EXIT_CODES.items())


def test_every_public_name_is_on_the_page():
    page = (ROOT / "docs" / "api.md").read_text()
    assert re.findall(r"^## (\w+)$", page, re.MULTILINE) == masklet.__all__


def test_the_newest_entry_of_the_changelog_is_this_version():
    newest = re.search(r"^## \[?(\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest and newest[1] == version("masklet") == masklet.__version__


@EVERY_PAGE
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    targets = [target.split("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]
    assert [target for target in targets if target and not (page.parent / target).exists()] == []


def test_whoever_made_what_is_inside_is_named():
    notice = (ROOT / "NOTICE").read_text()
    for work in ("MobileSAM", "Segment Anything", "SAM 2", "Big Buck Bunny", "Apache License", "Creative Commons"):
        assert work in notice
    licence = (ROOT / "LICENSE").read_text()
    assert "Apache License" in licence and "Version 2.0, January 2004" in licence
