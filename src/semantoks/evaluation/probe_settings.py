"""How probes are trained that learn by steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, get_args

import numpy as np

from semantoks.errors import ConfigurationError
from semantoks.evaluation.target_coding import ClassWeight

RATES: Final = (0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001)
"""Learning rates that the validation part chooses among."""
EPOCHS: Final = 50
"""How often every window is seen."""


class ProbeSettings(NamedTuple):
    """How probes are trained."""

    rates: Sequence[float] = RATES
    epochs: int = EPOCHS
    class_weight: ClassWeight = "none"
    seed: int = 0


PAPER: Final = ProbeSettings()
"""The paper's protocol."""


def check_settings(settings: ProbeSettings) -> None:
    """Refuse settings that cannot be trained with."""
    if not len(settings.rates) or not all(0 < rate < np.inf for rate in settings.rates):
        raise ConfigurationError(f"rates must be positive, at least one; came {settings.rates!r}.")
    if settings.epochs < 1:
        raise ConfigurationError(f"epochs is {settings.epochs}; it must be at least 1.")
    if settings.class_weight not in get_args(ClassWeight):
        raise ConfigurationError(
            f"class_weight is 'none' or 'balanced', not {settings.class_weight!r}."
        )
    if not 0 <= settings.seed < 2**31:
        raise ConfigurationError(f"seed is {settings.seed}; it must be from 0 to 2³¹ - 1.")
