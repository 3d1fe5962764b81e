"""The real command in a real process."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

PATIENCE_S = 600
"""For what takes a second where nothing else runs: other work may hold every core, and a machine may stall."""
DROP_PRIVILEGES = """
import ctypes
if os.geteuid() == 0:  # without CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH even root needs permissions
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(24, 1, 0, 0, 0) == libc.prctl(24, 2, 0, 0, 0) == 0
"""


@dataclass(frozen=True)
class Done:
    """A process that has ended."""

    code: int
    out: str
    err: str


def no_file_above(most_bytes):
    """Return a `before` that lets the system refuse larger files, as a full disk does."""
    return f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({most_bytes}, {most_bytes}))"


def command(*args, before=""):
    """Return the arguments of a process; `before` is what it does before it becomes masklet."""
    masklet = [sys.executable, "-m", "masklet", *map(str, args)]
    return [sys.executable, "-c", f"import os, sys\n{before}\nos.execv(sys.executable, sys.argv[1:])", *masklet]


def masklet(*args, cwd, before="", **environment):
    """Run a command to its end, away from any terminal."""
    temporary = Path(cwd).parent / "temporary"
    temporary.mkdir(exist_ok=True)
    done = subprocess.run(
        command(*args, before=before) if before else [sys.executable, "-m", "masklet", *map(str, args)],
        cwd=cwd,
        env=os.environ | {"TMPDIR": str(temporary), "COLUMNS": "110"} | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        timeout=PATIENCE_S,
    )
    assert list(temporary.iterdir()) == []
    return Done(done.returncode, done.stdout, done.stderr)


def start(*args, cwd, before="", **streams):
    """Start a command."""
    return subprocess.Popen(command(*args, before=before), cwd=cwd, stdin=subprocess.DEVNULL, **streams)
