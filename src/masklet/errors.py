"""What can go wrong, as the person who asked should hear it. Imports nothing.

Every message names the value, the limit and the way out. `exit_code` is what the command line returns.
"""


class Problem(Exception):
    """A failure with an explanation for a person; anything else that escapes masklet is a bug."""

    exit_code = 1


class BadPrompt(Problem, ValueError):
    """A click, box, mask or option that cannot be meant."""

    exit_code = 3


class BadVideo(Problem):
    """A file that is missing, empty, cut short, not a video, or not one masklet will open."""

    exit_code = 4


class TooLarge(BadVideo):
    """A video of more pixels, frames or seconds than are taken."""


class NoFrames(BadVideo):
    """A file in which there is nothing to see."""


class SizeChanged(BadVideo):
    """A video whose frames are not all of one size."""


class BadWeights(Problem):
    """A model that is unknown, unreachable, truncated, hostile or of another shape."""

    exit_code = 5


class NoSpace(Problem):
    """Outputs could not be written: no room, or no permission."""

    exit_code = 6


class Cancelled(Problem):
    """Somebody stopped the work; what was finished is kept."""

    exit_code = 130
