"""Link budgets by hand."""

import numpy as np
import pytest

from ris_jax.accuracy import link_budget


def test_noise_power():
    """Noise power kTB at 290 K is -173.98 dBm in 1 Hz."""
    budget = link_budget.LinkBudget(0.0, noise_figure_db=3.0, bandwidth_hz=1e6)
    assert budget.noise_power_dbm == pytest.approx(-173.975 + 60.0 + 3.0, abs=1e-3)


@pytest.mark.parametrize(("exponent", "metres"), [(2.0, 5.0), (3.0, 2.0)])
def test_received_snr(exponent, metres):
    """The SNR has the Friis gain of an element, N elements, and the loss of the second hop."""
    budget = link_budget.LinkBudget(10.0, path_loss_exponent=exponent, surface_loss_db=70.0)
    found = link_budget.received_snr(
        budget, np.array([[2.0]]), np.array([metres]),
        num_elements=100, channel_power=2.0, wavelength=0.3,
    )  # fmt: skip
    expected = (
        10.0 + 20.0 * np.log10(0.3 / (4 * np.pi)) - 10 * exponent * np.log10(metres) + 20.0 - 70.0
    )
    np.testing.assert_allclose(10 * np.log10(found), expected - budget.noise_power_dbm)


@pytest.mark.parametrize(
    ("field", "value"),
    [("bandwidth_hz", 0.0), ("path_loss_exponent", -1.0), ("noise_figure_db", np.nan)],
)
def test_values_out_of_their_domain(field, value):
    with pytest.raises(ValueError, match=field):
        link_budget.LinkBudget(0.0, **{field: value})
