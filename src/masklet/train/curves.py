"""A training's log: one JSON object a step; and its curves."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from masklet.files import draft_path

LOG, CURVES = "log.jsonl", "curves.png"
SMOOTHED = 15
"""Points of a curve are means over this part of a run, one in so many."""


def read_log(out: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's log; a last line that was cut short is left out."""
    lines = []
    for text in (out / LOG).read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


def draw_curves(out: Path) -> bool:
    """Plot the log as `curves.png`; False where matplotlib (extra `train`) is missing."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    lines = read_log(out)
    if not lines:
        return False
    shown = (("loss", "focal", "dice", "iou", "occlusion"), ("j_click", "j_box", "j_track", "j_correct"))
    figure = Figure(figsize=(12, 5), layout="constrained")
    for axes, names in zip(figure.subplots(1, 2), shown, strict=True):
        for name in names:
            points = [(line["step"], line[name]) for line in lines if line.get(name) is not None]
            if points:
                steps, values = np.array(points).T
                width = max(1, len(values) // SMOOTHED)
                kernel = np.ones(width) / width
                axes.plot(np.convolve(steps, kernel, "valid"), np.convolve(values, kernel, "valid"), label=name)
        axes.set_xlabel("step")
        axes.legend()
        axes.grid(alpha=0.3)
    with draft_path(out / CURVES) as draft:
        figure.savefig(draft, format="png")
    return True
