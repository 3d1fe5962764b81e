"""masklet beside Meta's predictor: the same clip, the same weights, the same scenes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .amplify import amplified
from .answers import Answers, Difference, compare
from .ours import Masklet, network, write_pictures
from .peers import Official, official_predictor, pictures_as_input
from .scenes import ALL, HEIGHT, WIDTH, Action, clip
from .ties import Ties

SEEDS = {"tiny": 0, "small": 0, "base-plus": 2, "large": 3}
"""With these most masks are neither empty nor everything, none is nearly absent, and most objects come and go."""


@dataclass(eq=False)
class Pair:
    """Two trackers on one clip. What Meta's predictor answered is kept."""

    name: str
    """Size, revision and input side, for the table of figures."""
    official: Official
    ours: Masklet
    ties: Ties
    """What every side on this clip follows."""
    _expected: dict[tuple[tuple[Action, ...], bool, bool], Answers] = field(default_factory=dict)

    def expected(self, actions: tuple[Action, ...], *, rounded: bool = True, holes: bool = True) -> Answers:
        """Return Meta's answers, acting them out the first time."""
        key = (actions, rounded, holes)
        if key not in self._expected:
            self._expected[key] = self.official.act(actions, rounded=rounded, holes=holes)
        return self._expected[key]

    def difference(self, actions: tuple[Action, ...], *, rounded: bool = True, holes: bool = True) -> Difference:
        """Act out a scenario on both sides and compare."""
        how = {"rounded": rounded, "holes": holes}
        return compare(self.expected(actions, **how), self.ours.act(actions, **how))


def make_pair(size: str, revision: str, image_px: int, folder: Path, *, times: Sequence[int] = ALL) -> Pair:
    """Build both trackers with the same amplified weights; the clip's pictures are written to `folder`."""
    predictor = official_predictor(size, revision, image_px)
    shapes = {name: tensor.shape for name, tensor in predictor.state_dict().items()}
    weights = amplified(shapes, seed=SEEDS[size])
    predictor.load_state_dict(weights, strict=True)
    ours, pictures, ties = network(size, revision, image_px, weights), clip(times), Ties()
    ties.settle_in(predictor.memory_encoder)
    ties.settle_in(ours.memory_encoder)
    return Pair(
        f"{size} {revision}, {image_px} px",
        Official(predictor, pictures_as_input(pictures, image_px), HEIGHT, WIDTH),
        Masklet(ours, write_pictures(pictures, folder)),
        ties,
    )
