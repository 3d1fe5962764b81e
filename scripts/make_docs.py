"""Write the pages that are made from code: `docs/cli.md` from the commands, `docs/api.md` from docstrings.

`make docs` runs it; a test fails while a page differs from what it would write.
"""

import ast
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import fields
from itertools import pairwise
from pathlib import Path

import click
from platformdirs import user_data_dir

import masklet
from masklet import export
from masklet.cli import EXIT_CODES, cli
from masklet.request import Option, options
from masklet.segment import Segmented
from masklet.server.lazily import LazyCommand

DOCS = Path(__file__).resolve().parent.parent / "docs"
MADE = "<!-- Made by `make docs` from {source}: change it there. -->\n"

CLI_HEAD = """# Command line

Results go to stdout, one path a line or, with `--json`, one JSON object; notes, progress and errors go to stderr.
A first Ctrl-C (or SIGTERM) finishes the frame under way and keeps what is done; a second one stops at once. Files
appear under their name only when they are whole.
"""
API_HEAD = """# Python reference

Everything that `import masklet` offers; [python.md](python.md) shows it at work. What is not here may change without
notice.
"""
RESULTS = """### What is written

| file in the folder of results | |
|---|---|
| `frame_%05d.webp` (`.jpg`, `.png`) | one picture a frame, numbered as in the video |
| `output_video.mp4` | instead of them, with `--output-video` |
| `NNN_NAME/frame_%05d.png` | with `--per-object`: one object's mask on one frame, 255 on the object and 0 elsewhere |
| `manifest.json` | what was asked, and every object's mask on every frame as numbers |

With `--json`, stdout has one object:
"""


def pages() -> dict[Path, str]:
    """Return each page's text."""
    return {DOCS / "cli.md": "\n".join(_cli()), DOCS / "api.md": "\n".join(_api())}


def _cli() -> Iterator[str]:
    yield MADE.format(source="src/masklet/cli.py and src/masklet/request.py")
    yield CLI_HEAD
    for name, command in _commands(cli, "masklet"):
        yield f"## {name}\n"
        yield _help(command)
        arguments = [p.make_metavar(click.Context(command)) for p in command.params if isinstance(p, click.Argument)]
        yield f"```\n{' '.join([name, *arguments])} [OPTIONS]\n```\n"
        yield from _options(command)
        if name == "masklet segment":
            yield from _segment()
    yield "## Exit codes\n\n| code | |\n|---|---|"
    yield from (f"| {code} | {meaning} |" for code, meaning in EXIT_CODES.items())
    yield ""


def _commands(group: click.Group, name: str) -> Iterator[tuple[str, click.Command]]:
    for key, found in group.commands.items():
        command = found.load() if isinstance(found, LazyCommand) else found
        yield f"{name} {key}", command
        if isinstance(command, click.Group):
            yield from _commands(command, f"{name} {key}")


def _help(command: click.Command) -> str:
    """Turn click's help into Markdown."""
    return "\n\n".join(map(_paragraph, inspect.cleandoc(command.help or "").split("\n\n"))) + "\n"


def _paragraph(text: str) -> str:
    r"""Keep the lines of a paragraph that click's mark `\b` begins: an introduction, and what one would type."""
    if not text.startswith("\b\n"):
        return text
    lines = text.removeprefix("\b\n").splitlines()
    said = " ".join(line for line in lines if not line.startswith(" "))
    typed = textwrap.dedent("\n".join(line for line in lines if line.startswith(" ")))
    return f"{said.rstrip(':')}:\n\n```\n{typed}\n```" if typed else said


def _options(command: click.Command) -> Iterator[str]:
    """Yield a table of a command's options; those of a request have its own words for their values."""
    known, context = {option.name: option for option in options()}, click.Context(command)
    if not any(isinstance(param, click.Option) for param in command.params):
        return
    yield "| option | values | default | |\n|---|---|---|---|"
    for param in command.params:
        if isinstance(param, click.Option) and param.name:
            option = known.get(param.name)
            values = _values(option) if option else _values_of(param)
            about, default = _default(param, context)
            yield f"| `{param.opts[0]}` | {values} | {default} | {about} |"
    yield ""


def _default(param: click.Option, context: click.Context) -> tuple[str, str]:
    """Return an option's help and its default, which some write into their help; folders by what they are."""
    about = (param.help or "").replace(user_data_dir("masklet"), "the user's data folder")
    if written := re.fullmatch(r"(.*?)\s*\[default: (.*)\]", about):
        return written[1], written[2] if " " in written[2] else f"`{written[2]}`"
    if param.required:
        return about, "required"
    default = None if param.is_flag else param.get_default(context)
    return about, f"`{default}`" if isinstance(default, (str, int, float)) and default != "" else ""


def _values(option: Option) -> str:
    if option.choices:
        return ", ".join(f"`{choice}`" for choice in option.choices)
    if option.limits is not None:
        least, most = option.limits
        return f"{least} or more" if most is None else f"{least} to {most}"
    return {bool: "flag", tuple: "text, repeatable"}.get(option.kind, "text")


def _values_of(param: click.Option) -> str:
    if param.is_flag:
        return "flag"
    if isinstance(param.type, click.Choice):
        return ", ".join(f"`{choice}`" for choice in param.type.choices)
    if isinstance(param.type, click.IntRange):
        return f"{param.type.min} or more"
    return "text"


def _segment() -> Iterator[str]:
    yield RESULTS
    yield "| field | |\n|---|---|"
    about = _documented(_definition(Segmented.__name__))
    yield from (f"| `{f.name}` | {about.get(f.name, '')} |" for f in fields(Segmented))
    yield "\n### manifest.json\n"
    _, before, block, after = re.split(
        r"\n\n(?=`manifest)|\n\n(?= )|\n\n(?=Every frame)", inspect.cleandoc(export.__doc__)
    )
    yield f"{before}\n\n```\n{textwrap.dedent(block)}\n```\n\n{after}\n"


def _documented(node: ast.ClassDef) -> dict[str, str]:
    """Return what is written under a dataclass's fields."""
    return {
        field.target.id: inspect.cleandoc(text.value.value)
        for field, text in pairwise(node.body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and _is_text(text)
    }


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _api() -> Iterator[str]:
    yield MADE.format(source="the docstrings of src/masklet")
    yield API_HEAD
    for name in masklet.__all__:
        node = _definition(name)
        yield f"## {name}\n"
        yield f"```py\n{_signature(name, node)}\n```\n"
        yield f"{ast.get_docstring(node)}\n"
        if isinstance(node, ast.ClassDef):
            yield from _members(node)


def _definition(name: str) -> ast.ClassDef | ast.FunctionDef:
    """Return the syntax tree of a public name; its source says things as they were written, on every Python."""
    module = importlib.import_module(f"masklet.{masklet._HOMES[name]}")
    home = importlib.import_module(getattr(module, name).__module__)
    for node in ast.parse(inspect.getsource(home)).body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name == name:
            return node
    raise LookupError(f"{home.__name__} does not define {name}")


def _signature(name: str, node: ast.ClassDef | ast.FunctionDef) -> str:
    if isinstance(node, ast.FunctionDef):
        return _call(name, node)
    made = next((f for f in node.body if isinstance(f, ast.FunctionDef) and f.name == "__init__"), None)
    bases = [ast.unparse(base) for base in node.bases]
    if made is not None:
        return f"class {_call(name, made)}"
    if any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
        about = _documented(node)
        lines = [f"    {_field(f, about)}" for f in node.body if isinstance(f, ast.AnnAssign)]
        return f"@dataclass\nclass {name}:\n" + "\n".join(lines)
    return f"class {name}({', '.join(bases)})" if bases else f"class {name}"


def _field(field: ast.AnnAssign, about: dict[str, str]) -> str:
    """Write a field with its default and what is said about it; of `field(...)` only the default matters here."""
    written = f"{ast.unparse(field.target)}: {ast.unparse(field.annotation)}"
    value = field.value
    if isinstance(value, ast.Call):
        value = next((keyword.value for keyword in value.keywords if keyword.arg == "default"), None)
    name, said = ast.unparse(field.target), "" if value is None else f" = {ast.unparse(value)}"
    return f"{written}{said}" + (f"  # {' '.join(about[name].split())}" if name in about else "")


def _call(name: str, node: ast.FunctionDef) -> str:
    arguments = ast.unparse(node.args)
    arguments = re.sub(r"^self(, )?", "", arguments)
    returns = f" -> {ast.unparse(node.returns)}" if node.returns and node.name != "__init__" else ""
    return re.sub(r"'((?:Network|Geometry)[^']*)'", r"\1", f"{name}({arguments}){returns}")


def _members(node: ast.ClassDef) -> Iterator[str]:
    for member in node.body:
        if isinstance(member, ast.FunctionDef) and not member.name.startswith("_"):
            is_property = any(ast.unparse(d) == "property" for d in member.decorator_list)
            text = " ".join((ast.get_docstring(member) or "").split())
            yield f"- `{member.name if is_property else _call(member.name, member)}`: {text}"
    yield ""


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text)
        print(path)
