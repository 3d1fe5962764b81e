"""What the measurements have in common: weights, a looped clip, a process for each run, and the machine's name."""

import json
import platform
import subprocess
import sys
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from masklet import open_video
from masklet.model.config import sam2_config
from masklet.model.network import Network
from masklet.video import VideoWriter

HERE = Path(__file__).parent
EXAMPLE = HERE.parent / "examples" / "bunny.mp4"


def random_weights(path: Path, *, side: int = 1024) -> Path:
    """Write `tiny` with seeded random weights in official form; speed and memory do not depend on the values."""
    torch.manual_seed(0)
    torch.save({"model": Network(sam2_config("tiny", "2.1", side)).state_dict()}, path)
    return path


def looped(path: Path, frame_count: int) -> Path:
    """Write the example clip over and over, `frame_count` frames in all."""
    frames = [frame.rgb for frame in open_video(EXAMPLE).frames()]
    with VideoWriter(path, fps=Fraction(25)) as film:
        for i in range(frame_count):
            film.write(frames[i % len(frames)])
    return path


def measured(who: str, clip: Path, weights: Path, *, side: int, objects: int, frames: int) -> dict[str, Any]:
    """Run one implementation in a process of its own."""
    options = ["--side", str(side), "--objects", str(objects), "--frames", str(frames)]
    command = [sys.executable, str(HERE / "runners.py"), who, str(clip), str(weights), *options]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def machine() -> str:
    """Say what this was measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.processor())
    peers = ", ".join(f"{p} {version(p)}" for p in ("torch", "sam2", "transformers"))
    return f"{name}, {torch.get_num_threads()} threads, Python {platform.python_version()}, {peers}"
