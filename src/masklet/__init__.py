"""Promptable video segmentation with SAM 2: click on things in a video, get each thing's mask on every frame."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from masklet.errors import BadPrompt, BadVideo, BadWeights, Cancelled, NoSpace, Problem
    from masklet.export import read_manifest
    from masklet.masks import FrameMasks
    from masklet.model.network import Network
    from masklet.prompts import Box, Click, Prompt
    from masklet.request import Request
    from masklet.segment import Segmented, segment_video
    from masklet.session import Session
    from masklet.tracker import Tracker
    from masklet.video import Video, open_video
    from masklet.weights import load_network

_HOMES = {
    "BadPrompt": "errors",
    "BadVideo": "errors",
    "BadWeights": "errors",
    "Box": "prompts",
    "Cancelled": "errors",
    "Click": "prompts",
    "FrameMasks": "masks",
    "Network": "model.network",
    "NoSpace": "errors",
    "Problem": "errors",
    "Prompt": "prompts",
    "Request": "request",
    "Segmented": "segment",
    "Session": "session",
    "Tracker": "tracker",
    "Video": "video",
    "load_network": "weights",
    "open_video": "video",
    "read_manifest": "export",
    "segment_video": "segment",
}

__all__ = [
    "BadPrompt",
    "BadVideo",
    "BadWeights",
    "Box",
    "Cancelled",
    "Click",
    "FrameMasks",
    "Network",
    "NoSpace",
    "Problem",
    "Prompt",
    "Request",
    "Segmented",
    "Session",
    "Tracker",
    "Video",
    "load_network",
    "open_video",
    "read_manifest",
    "segment_video",
]


def __getattr__(name: str) -> Any:
    """Load a public name on first use, so that `import masklet` and `masklet --help` are instant."""
    if name == "__version__":
        return import_module("importlib.metadata").version("masklet")
    if name not in _HOMES:
        raise AttributeError(f"module 'masklet' has no attribute {name!r}")
    value = getattr(import_module(f"masklet.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
