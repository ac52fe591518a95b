"""Every test of the mathematics draws the same numbers, alone or in company."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
