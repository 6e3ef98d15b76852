import numpy as np
import pytest
import torch

from denoiser.training.objective import distance


def test_distances():
    difference = torch.tensor([0.0, 0.5, -1.0])
    assert distance(difference, torch.zeros(3), "l1") == pytest.approx(0.5)
    assert distance(difference, torch.zeros(3), "l2") == pytest.approx(1.25 / 3)
    charbonnier = distance(difference, torch.zeros(3), "charbonnier").item()
    assert charbonnier == pytest.approx(np.sqrt(np.array([0, 0.25, 1]) + 1e-6).mean(), abs=1e-6)
