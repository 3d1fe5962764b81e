"""One pair of trackers at a time, and a table of the largest differences at the end of a run."""

import gc
from collections.abc import Callable

import pytest

from .answers import Difference
from .pairs import Pair, make_pair
from .scenes import ALL

FIGURES: dict[tuple[str, str], list[Difference]] = {}


@pytest.fixture(scope="session")
def pair(tmp_path_factory) -> Callable[..., Pair]:
    """Build trackers of a size, revision, input side and clip. Large ones fill gigabytes: there is one at a time."""
    kept: dict[tuple[object, ...], Pair] = {}

    def build(size: str = "tiny", revision: str = "2.1", image_px: int = 256, times: tuple[int, ...] = ALL) -> Pair:
        wanted = (size, revision, image_px, times)
        if wanted not in kept:
            kept.clear()
            gc.collect()  # its parts refer to each other
            kept[wanted] = make_pair(size, revision, image_px, tmp_path_factory.mktemp("pictures"), times=times)
        return kept[wanted]

    return build


@pytest.fixture
def note() -> Callable[[str, str, Difference], None]:
    """Keep a measured difference for the table."""
    return lambda who, how, difference: FIGURES.setdefault((who, how), []).append(difference)


def pytest_terminal_summary(terminalreporter) -> None:
    """Print what was measured."""
    if not FIGURES:
        return
    terminalreporter.section("largest differences from the peers")
    terminalreporter.line(
        f"{'model':24} {'memory':30} {'runs':>4} {'logits':>9} {'score':>9} {'iou':>9} {'overlap':>9}"
    )
    for (who, how), found in sorted(FIGURES.items()):
        worst = [max(getattr(d, name) for d in found) for name in ("logits", "score", "iou")]
        overlap = min(d.overlap for d in found)
        figures = " ".join(f"{value:9.1e}" for value in worst)
        terminalreporter.line(
            f"{who:24} {how:30} {len(found):4} {figures} {overlap:9.5f} {max(d.odd for d in found):9.1e}"
        )
