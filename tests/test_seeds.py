"""Seeds outside what everything derived from them can take are refused where the user gives them."""

from __future__ import annotations

import numpy as np
import pytest

from goskill.errors import InputError
from goskill.seeds import check_seed
from goskill.training import TrainingSettings, seed_everything


@pytest.mark.parametrize("seed", [-1, 2**60, 2**63 - 1, 99999999999999999999, 1.0, "3", True, None])
def test_other_seeds_are_refused_by_name(seed) -> None:
    with pytest.raises(InputError, match=r"^seed: expected an integer from 0 to 2\*\*60 - 1, got "):
        TrainingSettings(seed=seed)


@pytest.mark.parametrize("seed", [0, 2**60 - 1, np.int64(5)])
def test_seeds_within_are_taken(seed) -> None:
    assert check_seed("seed", seed) == seed
    assert type(check_seed("seed", seed)) is int
    seed_everything(TrainingSettings(seed=seed).seed)
