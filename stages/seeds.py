"""Seeds of the parts of a command, which share no random numbers."""

from __future__ import annotations

import numpy as np

LARGEST_SEED = 2**32
"""What NumPy's and SB3's older generators take."""


def derived_seed(seed: int, *purpose: int) -> int:
    """A seed of 62 bits for one purpose: neighbouring seeds and purposes share nothing."""
    return int(np.random.SeedSequence([seed, *purpose]).generate_state(1, np.uint64)[0] >> 2)
