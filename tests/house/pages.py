"""Runs a page as its reader would: its blocks of `python` and `sh` from top to bottom, in a folder of their own.

Executed as a program in that folder, with the page's path as its argument; `test_documents.py` does that. A block right
after the comment `<!-- not run: REASON -->` is left out. Blocks of Python share their names, as in one interpreter.
"""

import re
import subprocess
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NOT_RUN = re.compile(r"<!-- not run: \S.* -->\n\Z")
SHELL = ["bash", "-euo", "pipefail", "-c"]


@dataclass(frozen=True)
class Block:
    """One example of a page."""

    language: str
    text: str
    line: int


def blocks_in(page):
    """Return the blocks of a page that are to be run."""
    return [
        Block(fence[1], fence[2], page.count("\n", 0, fence.start()) + 2)
        for fence in FENCE.finditer(page)
        if fence[1] in ("python", "sh") and not NOT_RUN.search(page, 0, fence.start())
    ]


def run(path):
    """Run a page's blocks; ends the process where one fails."""
    names = {"__name__": "__main__"}
    for block in blocks_in(path.read_text()):
        where = f"{path}:{block.line}"
        try:
            if block.language == "python":
                exec(compile("\n" * (block.line - 1) + block.text, str(path), "exec"), names)
            else:
                subprocess.run([*SHELL, block.text], check=True)
        except BaseException:
            traceback.print_exc()
            sys.exit(f"the block at {where} fails")


if __name__ == "__main__":
    run(Path(sys.argv[1]))
