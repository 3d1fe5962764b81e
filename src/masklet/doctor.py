"""What a person should know about an installation before blaming it."""

import os
import platform
import shutil
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import version

import torch

from masklet.catalogue import EMBEDDED
from masklet.errors import Problem
from masklet.video import can_write
from masklet.weights import load_network

ROOM_GB = 1.0
"""Below this, long videos will not fit: masks wait among the temporary files, and results go to the current folder."""


@dataclass(frozen=True)
class Finding:
    """One thing looked at."""

    subject: str
    ok: bool
    detail: str


def examine() -> list[Finding]:
    """Look at everything that masklet needs."""
    embedded = [_embedded(model.name) for model in EMBEDDED]
    return [_versions(), _devices(), _codecs(), *embedded, _temporary(), _results()]


def _versions() -> Finding:
    parts = [f"{name} {version(name)}" for name in ("masklet", "torch", "av", "numpy", "pillow")]
    return Finding("versions", sys.version_info >= (3, 11), f"Python {platform.python_version()}, {', '.join(parts)}")


def _devices() -> Finding:
    found = [f"cpu ({os.cpu_count()} processors, {torch.get_num_threads()} threads)"]
    found += [f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append("mps")
    return Finding("devices", True, ", ".join(found))


def _codecs() -> Finding:
    if can_write():
        return Finding("video", True, "H.264 can be written")
    return Finding("video", False, "no H.264 encoder: reinstall with 'pip install --force-reinstall av'")


def _embedded(model: str) -> Finding:
    try:
        network = load_network(model, device="cpu")
    except Problem as problem:
        return Finding(model, False, str(problem))
    return Finding(model, True, f"{sum(p.numel() for p in network.parameters()) / 1e6:.1f} million parameters")


def _temporary() -> Finding:
    try:
        folder = tempfile.gettempdir()
    except FileNotFoundError as error:
        return Finding("temporary files", False, f"{error.strerror}: set TMPDIR to a folder this user may write to")
    return _room("temporary files", folder, "set TMPDIR to a larger disk")


def _results() -> Finding:
    folder = os.getcwd()
    if not os.access(folder, os.W_OK | os.X_OK):
        return Finding("results", False, f"{folder} may not be written to: work elsewhere, or give --out")
    return _room("results", folder, "work on a larger disk, or give --out")


def _room(subject: str, folder: str, advice: str) -> Finding:
    free_gb = shutil.disk_usage(folder).free / 1e9
    where = f"{free_gb:.1f} GB free in {folder}"
    return Finding(subject, free_gb >= ROOM_GB, where if free_gb >= ROOM_GB else f"{where}: {advice}")
