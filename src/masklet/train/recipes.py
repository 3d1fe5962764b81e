"""What the trainings really differ in, and nothing else; what they share is a constant beside the code that uses it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import nn

from masklet.errors import BadPrompt
from masklet.model.network import Network

Group = Literal["score", "decoder", "neck", "memory", "trunk"]

GROUPS: Mapping[Group, tuple[str, ...]] = {
    "score": ("sam_mask_decoder.pred_obj_score_head.",),
    "decoder": ("sam_mask_decoder.", "sam_prompt_encoder."),
    "neck": ("image_encoder.neck.",),
    "memory": ("memory_", "maskmem_", "mask_downsample.", "obj_ptr_", "no_mem_", "no_obj_"),
    "trunk": ("image_encoder.trunk.",),
}
"""Beginnings of the names of each group's parameters; together they are all, and the first that fits counts."""


@dataclass(frozen=True)
class Recipe:
    """What really differs between trainings."""

    name: str
    rates: Mapping[Group, float]
    """Learning rate of each group that is trained; the others stay as they are."""
    long_sides_px: tuple[int, ...] = ()
    """Input sizes, one drawn for each step; none: the model's own."""
    frames: int = 4
    objects: int = 3
    """At most so many of a clip's objects; of a picture's three times as many."""
    clips: int = 2
    """Clips a step."""
    picture_share: float = 0.3
    """Share of single pictures among clips."""
    steps: int = 20_000


RECIPES: Mapping[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe("nano", {"decoder": 1e-5}, frames=5, clips=1, picture_share=0.2),
        Recipe(
            "nano-trunk",
            {"decoder": 5e-5, "score": 5e-5, "neck": 5e-5, "trunk": 1e-5},
            long_sides_px=(512, 640, 768),
            steps=8000,
        ),
        Recipe(
            "nano-memory",
            {"decoder": 2e-5, "score": 2e-5, "memory": 3e-4},
            long_sides_px=(352, 448),
            frames=6,
            picture_share=0.1,
        ),
        Recipe("finetune", {"decoder": 1e-5, "score": 1e-5, "neck": 1e-5, "memory": 1e-5}, objects=2, steps=1000),
    )
}


@dataclass(frozen=True)
class Limits:
    """When a run ends; of two limits whichever comes first. Time counts over all resumptions."""

    steps: int = 0
    """0: as many as the recipe says."""
    minutes: float | None = None

    def __post_init__(self) -> None:
        if self.minutes is not None and not self.minutes > 0:  # as nan is not
            raise BadPrompt(f"minutes is {self.minutes}: give a number above 0, or leave it out to take all steps")

    def share(self, step: int, seconds: float) -> float:
        """Return how much of the run is done, 0..1."""
        shares = [step / self.steps]
        if self.minutes is not None:
            shares.append(seconds / 60 / self.minutes)
        return min(1.0, max(shares))


def members_of(network: Network, group: Group) -> list[tuple[str, nn.Parameter]]:
    """Return the named parameters of a group."""
    return [(name, p) for name, p in network.named_parameters() if _group_of(name) == group]


def _group_of(name: str) -> Group:
    return next(group for group, starts in GROUPS.items() if name.startswith(starts))
