"""Rules of the house for source files: which way imports go, how long things get, and what is never called."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import masklet

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "masklet"
MOST_LINES_A_FILE, MOST_LINES_A_FUNCTION = 400, 60
MODULES = sorted(SOURCE.rglob("*.py"))
EVERY_MODULE = pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))


def functions(tree):
    return [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]


def calls(tree):
    """Yield each call as it is written, such as `torch.load`."""
    return [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def public(body):
    """Yield what others may use of a module: functions, classes, and what those offer in turn."""
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from public(node.body)


def test_imports_go_down_the_floors():
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


@EVERY_MODULE
def test_files_and_functions_stay_short(path):
    text = path.read_text()
    assert text.count("\n") <= MOST_LINES_A_FILE
    lengths = {f.name: f.end_lineno - f.lineno + 1 for f in functions(ast.parse(text))}
    assert {name: lines for name, lines in lengths.items() if lines > MOST_LINES_A_FUNCTION} == {}


def speaks_for_itself(node, body):
    """Whether a name says it all: a property of one line, torch's `forward`, or what the file explains elsewhere."""
    one_line = len(node.body) == 1 and [ast.unparse(d) for d in node.decorator_list] == ["property"]
    explained = {other.name for other in public(body) if ast.get_docstring(other)}
    return one_line or node.name in {"forward"} | explained


@EVERY_MODULE
def test_what_others_may_use_says_what_it_does(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    silent = [node for node in public(tree.body) if not ast.get_docstring(node)]
    assert [node.name for node in silent if not speaks_for_itself(node, tree.body)] == []


@EVERY_MODULE
def test_only_doors_speak(path):
    assert "print" not in calls(ast.parse(path.read_text()))


def test_whoever_unpickles_lets_torch_run_nothing():
    callers = set()
    for path in MODULES:
        tree = ast.parse(path.read_text())
        assert not {"pickle.load", "pickle.loads", "pickle.Unpickler"} & set(calls(tree)), path
        for load in ast.walk(tree):
            if isinstance(load, ast.Call) and ast.unparse(load.func) == "torch.load":
                callers.add(str(path.relative_to(SOURCE)))
                assert "weights_only=True" in [ast.unparse(keyword) for keyword in load.keywords], path
    assert callers <= {"checkpoint.py", "train/loop.py"}  # a stranger's file, and training's own state


def test_public_names_are_sorted_complete_and_documented():
    assert masklet.__all__ == sorted(masklet.__all__)
    assert masklet.__all__ == list(masklet._HOMES) == dir(masklet)
    for name in masklet.__all__:
        assert getattr(masklet, name).__doc__, name
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = masklet.nothing


def test_type_checkers_see_the_same_public_names():
    [block] = [node for node in ast.parse((SOURCE / "__init__.py").read_text()).body if isinstance(node, ast.If)]
    seen = {alias.name: node.module for node in block.body for alias in node.names}
    assert seen == {name: f"masklet.{home}" for name, home in masklet._HOMES.items()}
