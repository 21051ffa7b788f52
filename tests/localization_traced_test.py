"""`jax.jit(localize)` gives the results of `localize`, for every estimator."""

import functools

import chex
import jax
import numpy as np
import pytest

from ris_jax import config as config_lib
from ris_jax import localization
from ris_jax.estimation.baselines import catalogue
from ris_jax.networks import pretrained
from ris_jax.physics import arrays, scenes

CONFIG = config_lib.override(
    config_lib.Config(), {"scene.snr_min_db": 15.0, "scene.max_sources": 2}
)
POSITIONS = np.asarray(arrays.element_positions(CONFIG.system))
NETWORKS = {"learned_pursuit": "default", "subspace_network": "subspace_network"}


@functools.cache
def draw():
    return scenes.sample_scenes(jax.random.key(0), CONFIG, 4)


def network_for(name):
    """Return the shipped network that an estimator needs, or None."""
    method = catalogue.METHODS.get(name)
    if method is None or method.network != "needed":
        return None
    return pretrained.load_pretrained(NETWORKS[str(method.architecture)])


@pytest.mark.full
@pytest.mark.parametrize(
    ("name", "known"),
    [*((name, False) for name in localization.ESTIMATORS), ("maximum_likelihood", True),
     ("music", True)],
)  # fmt: skip
def test_equals_the_eager_call(name, known):
    """Also where the noise variance is unknown, which blind estimators estimate."""
    scene = draw()
    measurement = scene.measurement._replace(noise_variance=np.full(4, np.nan, np.float32))
    localize = functools.partial(
        localization.localize,
        positions=POSITIONS,
        estimator=name,
        num_sources=scene.truth.num_sources if known else None,
        network=network_for(name),
        check=False,
        **localization.options_of(CONFIG),
    )
    eager, traced = localize(measurement), jax.jit(localize)(measurement)
    chex.assert_trees_all_equal(eager.num_sources, traced.num_sources)
    assert np.any(np.asarray(eager.num_sources))
    chex.assert_trees_all_close(
        eager._replace(flags=None), traced._replace(flags=None), rtol=1e-3, atol=1e-5
    )
