"""Why a prediction failed, as its owner hears it: a code of the published list and one sentence.

The sentence holds no path of this machine, whatever the error it was made of said.
"""

import re
from collections.abc import Mapping

from masklet.errors import BadPrompt, BadVideo, BadWeights, NoSpace, Problem
from masklet.jobs import ErrorCode

_CODES: Mapping[type[Problem], ErrorCode] = {BadPrompt: "E_BAD_PROMPT", BadVideo: "E_UNSUPPORTED_MEDIA"}
"""Failures of what was sent: their owner hears the words of the error."""
_OWN: Mapping[type[Exception], tuple[ErrorCode, str]] = {
    BadWeights: ("E_MODEL_SETUP", "The server could not load the model: its log says why."),
    NoSpace: ("E_DISK_FULL", "The server's disk is full: try again when there is room."),
    MemoryError: (
        "E_OOM",
        "The server ran out of memory: make the video smaller, follow fewer objects, or ask for a smaller model.",
    ),
}
"""Failures of the server: the log has the words, which may speak of its files."""
_WITHIN = r"(?:/(?:[^\s:'\",;)]*[^\s:'\",;).])?)?"
_PATH = re.compile(r"(?<![\w:/.])/(?:[\w.\-]+/)+(?:[\w.\-]*[\w\-])?")


class JobFailure(Problem):
    """A prediction cannot succeed. `worn`: the process that found out may be in no state to run another."""

    def __init__(self, code: ErrorCode, text: str, *, worn: bool = False) -> None:
        super().__init__(text)
        self.code: ErrorCode = code
        self.worn = worn


def failure_of(error: Exception, names: Mapping[str, str]) -> JobFailure:
    """Turn any error into what its owner hears; `names` says what each path of this machine is called."""
    if isinstance(error, JobFailure):
        return JobFailure(error.code, _plain(str(error), names), worn=error.worn)
    for kind, (own, text) in _OWN.items():
        if isinstance(error, kind):
            return JobFailure(own, text, worn=kind is MemoryError)
    for kind, code in _CODES.items():
        if isinstance(error, kind):
            return JobFailure(_narrower(code, str(error)), _plain(str(error), names))
    text = "masklet failed inside; the server's log says more under this prediction's id."
    return JobFailure("E_INTERNAL", text, worn=True)


def _narrower(code: ErrorCode, text: str) -> ErrorCode:
    """Tell a frame beyond the end, which only the decoded video shows, from other mistakes in prompts."""
    beyond = "there is no such frame" in text or "but the video has" in text
    return "E_FRAME_RANGE" if code == "E_BAD_PROMPT" and beyond else code


def _plain(text: str, names: Mapping[str, str]) -> str:
    """Put outside names for paths, longest first, so that no folder's name is left of a file's."""
    for path in sorted(names, key=len, reverse=True):
        text = re.sub(re.escape(path) + _WITHIN, names[path], text)
    return _PATH.sub("a file", text)
