"""How a training goes, by its losses."""

import math

import torch
from torch import Tensor

DIVERGED = 10  # a loss this many times the least one so far ends the run
RECENT = 0.1  # weight of the newest step in the running mean that is watched for it


class Losses:
    """Loss and penalty since they were last taken, kept on the device so that no step waits."""

    def __init__(self, device: torch.device) -> None:
        """Start with none."""
        self._sums, self.count = torch.zeros(2, device=device), 0
        self._recent = torch.zeros((), device=device)  # running mean of both together
        self._least = math.inf

    def add(self, losses: Tensor) -> None:
        """Add those of a step: (2,), loss and penalty."""
        self._sums += losses
        self._recent = self._recent.lerp(losses.sum(), RECENT) if self.count else losses.sum()
        self.count += 1

    def newest(self) -> float:
        """Running mean of both together; waits for the device."""
        return float(self._recent.item())

    def take(self) -> Tensor:
        """Means of loss and penalty, and the newest, (3,); those that follow are counted anew."""
        taken = torch.stack([*self._sums / self.count, self._recent])
        self._sums.zero_()
        self.count = 0
        return taken

    def are_good(self, *totals: float) -> bool:
        """Whether none has exploded; the first is remembered if so."""
        good = all(total < DIVERGED * self._least for total in totals)
        if good:
            self._least = min(self._least, totals[0])
        return good
