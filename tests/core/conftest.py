from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Make draws from torch's global generator the same in every run."""
    torch.manual_seed(0)
