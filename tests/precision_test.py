"""Products of physics and estimation have full precision for any default of JAX."""

import functools

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from ris_jax import config, estimators, localization
from ris_jax.accuracy import bounds
from ris_jax.estimation import maximum_likelihood
from ris_jax.estimation.baselines import subspace
from ris_jax.physics import arrays, measurement, scenes
from ris_jax.training import step

CONFIG = config.override(
    config.Config(),
    {"system.rows": 3, "system.columns": 3, "system.num_antennas": 3, "system.num_snapshots": 4,
     "scene.max_sources": 2},
)  # fmt: skip
POSITIONS = np.asarray(arrays.element_positions(CONFIG.system))
OPTIONS = localization.options_of(CONFIG)


def products(jaxpr):
    """Return all matrix products of a program, including loops and branches."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from products(inner)


@functools.cache
def scene():
    return scenes.sample_scenes(jax.random.key(0), CONFIG, 2)


def _bound(scene):
    return bounds.scene_bound(scene, POSITIONS, CONFIG.system)


def _music(scene):
    covariance, _ = estimators.snapshot_covariance(scene.measurement, "constant")
    counts = jnp.ones(2, jnp.int32)
    waves = {name: OPTIONS[name] for name in ("wavelength", "wavefront")}
    return subspace.music(covariance, counts, POSITIONS, max_sources=2, **waves)


FUNCTIONS = {
    "steering": lambda scene: arrays.steering_jet(jnp.ones((4, 3)), POSITIONS, wavelength=0.3),
    "simulate": lambda scene: jax.vmap(
        lambda key, truth: scenes.simulate(key, truth, CONFIG), in_axes=(None, 0)
    )(jax.random.key(0), scene.truth),
    "aperture_field": lambda scene: jax.vmap(measurement.aperture_field)(scene.measurement),
    "bound": _bound,
    "maximum_likelihood": lambda scene: maximum_likelihood.maximum_likelihood(
        scene.measurement, POSITIONS, **OPTIONS
    ),
    "independent": lambda scene: maximum_likelihood.maximum_likelihood(
        scene.measurement, POSITIONS, **OPTIONS | {"source_signal": "independent"}
    ),
    "music": _music,
    "targets": lambda scene: step.prepare(scene, CONFIG),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_products_have_the_highest_precision(name):
    with jax.default_matmul_precision("bfloat16"):
        found = list(products(jax.make_jaxpr(FUNCTIONS[name])(scene()).jaxpr))
    assert found or name == "steering"
    highest = (jax.lax.Precision.HIGHEST,) * 2
    wrong = [str(e.source_info.traceback) for e in found if e.params["precision"] != highest]
    assert not wrong, wrong[0]
