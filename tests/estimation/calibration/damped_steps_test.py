"""Damped steps on a known function."""

import numpy as np
import pytest

from ris_jax.estimation.calibration import damped_steps


@pytest.mark.parametrize("start", [0.0, 2.0, 4.0])
def test_minimum_of_the_absolute_logarithm(start):
    """Undamped Newton steps diverge from far away; the residual never rises."""
    seen = []

    def residual(x):
        seen.append(x)
        return np.logaddexp(x - 1.0, 1.0 - x)

    found = damped_steps.minimise(
        start,
        lambda x: (1.0 / np.cosh(x - 1.0) ** 2, np.tanh(x - 1.0)),
        lambda x, found, damping: x - found[1] / (found[0] + damping),
        residual,
        most_steps=60,
        converged=1e-14,
    )
    np.testing.assert_allclose(found, 1.0, atol=1e-6)
    assert len(seen) < 100
