"""What tests of crashes share: the checker in its process, and a small picture to be segmented."""

import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

CHECKER = Path(__file__).parent / "checker.py"


def check(data, acks, *, url=None, tokens=None, kills=0, running=()):
    """Run the checker; returns its violations and what it says it has looked at."""
    command = [sys.executable, CHECKER, "--data", data, "--acks", acks, "--kills", kills]
    command += ["--url", url] if url else []
    for owner, token in (tokens or {}).items():
        command += ["--token", f"{owner}={token}"]
    command += ["--running", *running]
    ran = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=600)
    assert ran.returncode == (1 if ran.stdout else 0), ran.stderr
    return ran.stdout.splitlines(), ran.stderr


def write_picture(path):
    """Write a red square on black; a click at 6,6 finds it."""
    rgb = np.zeros((16, 16, 3), np.uint8)
    rgb[4:12, 4:12] = (230, 40, 40)
    Image.fromarray(rgb).save(path, "PNG")
    return path
