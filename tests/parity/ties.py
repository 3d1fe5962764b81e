"""Cells of a mask that lie within rounding of zero, where two sides may say either and both are right.

What a person prompted is binarised before it is remembered. Of a mask's cells one or two may lie so near to zero that
on one processor the peers' sums round to either side of it (2e-7 was seen); one cell moves later logits by 2e-3. So the
first side to remember such a mask decides, and the others, asked for one alike but for such cells, remember the same.
"""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

CELLS = 3
"""So many may be ties; of 65,536 at the smallest size."""
FULL = 10.0
"""What binarised masks are scaled to, either way, before they are encoded."""


@dataclass(eq=False)
class Ties:
    """Binarised masks as they were first remembered."""

    _decided: list[Tensor] = field(default_factory=list)

    def settle_in(self, memory_encoder: nn.Module) -> None:
        """Let a side's memory encoder follow what was decided."""
        memory_encoder.register_forward_pre_hook(self._settle)

    def _settle(self, _: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        features, masks, *rest = inputs
        if not bool((masks.abs() == FULL).all()):
            return None  # of a tracked frame: a matter of degree, which knows no ties
        settled = masks.new_empty(masks.shape)
        for i, mask in enumerate(masks):
            settled[i] = self._first_alike(mask)
        return (features, settled, *rest)

    def _first_alike(self, mask: Tensor) -> Tensor:
        for decided in self._decided:
            if decided.shape == mask.shape and int((decided != mask).sum()) <= CELLS:
                return decided
        self._decided.append(mask.clone())
        return mask
