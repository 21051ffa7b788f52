"""NumPy steering vectors equal those of `ris_jax.physics.arrays`."""

from typing import get_args

import numpy as np
import pytest

from ris_jax import config as config_lib
from ris_jax.data.recordings import host_steering
from ris_jax.physics import arrays


def _places():
    random = np.random.default_rng(0)
    azimuth, elevation = random.uniform([[-1.0], [-0.5]], [[1.0], [0.5]], (2, 20))
    return azimuth, elevation, random.uniform(0.5, 20.0, 20)


@pytest.mark.parametrize("wavefront", get_args(config_lib.Wavefront))
def test_equals_the_package(wavefront):
    positions = np.random.default_rng(1).uniform(-0.5, 0.5, (7, 3))
    points = host_steering.coordinates_of(*_places())
    points[0] = [0.6, 0.0, 2.0]  # 0.1 m from the last element
    positions[-1] = [0.4, 0.0, 0.4]
    options = {"wavelength": 0.3, "wavefront": wavefront}
    found = host_steering.steering(points, positions, **options)
    expected = arrays.steering_at(points.astype("f4"), positions.astype("f4"), **options)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_coordinates():
    expected = arrays.to_coordinates(*_places())
    np.testing.assert_allclose(host_steering.coordinates_of(*_places()), expected, rtol=1e-5)


def test_unknown_wavefront():
    with pytest.raises(ValueError, match="wavefront: need one of spherical"):
        host_steering.steering(np.zeros((1, 3)), np.eye(3), wavelength=1.0, wavefront="flat")
