"""Stored networks, and accuracy of the shipped ones."""

import dataclasses
import json
import pathlib
import tempfile

import chex
import jax
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from cases import small

from ris_jax import config as config_lib
from ris_jax import localization
from ris_jax.accuracy import metrics
from ris_jax.estimation import flags
from ris_jax.networks import pretrained
from ris_jax.physics import arrays, scenes
from ris_jax.physics.element_response import ElementResponse
from ris_jax.training import evaluation
from ris_jax.training import state as state_lib

WEIGHTS = pathlib.Path(pretrained.__file__).parent / "weights"
CONFIG = config_lib.Config()
POSITIONS = np.asarray(arrays.element_positions(CONFIG.system))
SCENES = 64


def draw(**changes):
    """Draw scenes of the stream `test`, on the host."""
    config = config_lib.override(CONFIG, changes)
    return jax.device_get(scenes.sample_scenes(scenes.stream_key(0, "test"), config, SCENES))


def localize(measurement, positions=POSITIONS, **options):
    """Run `localize` with the network `default`."""
    options = {"estimator": "network", "network": pretrained.load_pretrained("default")} | options
    return jax.device_get(localization.localize(measurement, positions, wavelength=0.3, **options))


class StoreTest(absltest.TestCase):
    def test_round_trip(self):
        config = config_lib.override(CONFIG, {"model.width": 16, "model.depth": 1})
        params = state_lib.create_train_state(config).params
        network = pretrained.Network(config, params, card='{"command": "mine"}')
        with tempfile.TemporaryDirectory() as folder:
            pretrained.write(network, pathlib.Path(folder) / "mine")
            back = pretrained.read(pathlib.Path(folder) / "mine")
        self.assertEqual((back.config, back.card), (network.config, network.card))
        chex.assert_trees_all_equal(back.params, network.params)

    def test_a_network_of_format_version_1_keeps_its_wavefront(self):
        """The same parameters serve the exact wavefront."""
        config = config_lib.override(CONFIG, {"model.width": 16, "model.depth": 1})
        network = pretrained.Network(config, state_lib.create_train_state(config).params)
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder)
            pretrained.write(network, path)
            stored = json.loads((path / "config.json").read_text())
            self.assertEqual(stored.pop("format_version"), 2)
            (path / "config.json").write_text(json.dumps(stored))
            old = pretrained.read(path)
        self.assertEqual(old.config.system.wavefront, "spherical_phase")
        measurement = jax.tree.map(
            lambda leaf: np.zeros(leaf, np.complex64), ((2, 16, 16), (2, 16, 144), (2, 16, 144)),
            is_leaf=lambda leaf: isinstance(leaf[0], int),
        )  # fmt: skip
        moved = old.for_array(
            scenes.Measurement(*measurement), POSITIONS, 0.3, "spherical", "constant"
        )
        self.assertEqual(moved.config.system.wavefront, "spherical")

    def test_unknown_name(self):
        with self.assertRaisesRegex(config_lib.ConfigError, "pretrained: need one of .*got 'x'"):
            pretrained.load_pretrained("x")


class ShippedTest(parameterized.TestCase):
    def test_total_size(self):
        size = sum(path.stat().st_size for path in WEIGHTS.rglob("*") if path.is_file())
        self.assertLess(size, 16e6)
        self.assertIn("default", pretrained.names())

    @parameterized.parameters(*pretrained.names())
    def test_cards_record_provenance(self, name):
        network = pretrained.load_pretrained(name)
        card = json.loads(network.card)
        self.assertStartsWith(card["command"], "ris-jax train --workdir=runs/")
        self.assertEqual(card["test_scenes"], 4000)
        for field in ("commit", "seed", "epoch", "versions", "machine"):
            self.assertIn(field, card)
        if network.config.model.architecture == "learned_pursuit":
            self.assertBetween(card["scores"]["covariance_nmse"], 0.0, 0.1)
        else:  # the missed fraction is half of it
            self.assertBetween(card["scores"]["projector_nmse"], 0.0, 0.4)

    @pytest.mark.full
    def test_held_out_scores(self):
        """Scores match the card, and the NMSE is half the acceptance limit."""
        network = pretrained.load_pretrained("default")
        state = state_lib.create_train_state(network.config).replace(ema_params=network.params)
        result = evaluation.evaluate(state, evaluation.draw_heldout(network.config, "test", 512))
        self.assertLess(result.mean("nmse"), 0.06)
        self.assertGreater(result.mean("count_correct"), 0.8)


class EstimatorTest(parameterized.TestCase):
    @pytest.mark.full
    def test_as_good_as_the_search(self):
        scene = draw()
        gospa = [
            metrics.gospa(localize(scene.measurement, estimator=name), scene.truth).total
            for name in ("network", "maximum_likelihood")
        ]
        difference = gospa[0] - gospa[1]
        error = difference.std(ddof=1) / np.sqrt(SCENES)
        self.assertLess(difference.mean(), 0.02 * gospa[1].mean() + 3.0 * error)

    def test_localize_uses_a_given_network(self):
        """The call has only the required arguments."""
        measurement = draw().measurement
        network = pretrained.load_pretrained("default")
        found = localization.localize(measurement, POSITIONS, wavelength=0.3, network=network)
        jax.tree.map(np.testing.assert_array_equal, found, localize(measurement))

    @pytest.mark.full
    def test_number_of_sources_known(self):
        """The number is exact, if necessary by the grid search."""
        scene = draw(**{"scene.snr_max_db": 0.0})
        counts = scene.truth.num_sources
        found = localize(scene.measurement, num_sources=counts)
        np.testing.assert_array_equal(found.num_sources, counts)

    @parameterized.parameters("music", "mvdr")
    @pytest.mark.full  # below: `parameterized` drops marks above it
    def test_spectral_estimators_on_the_covariance(self, estimator):
        scene = draw(**{"scene.snr_min_db": 10.0})
        counts = scene.truth.num_sources
        by_network = localize(scene.measurement, estimator=estimator, num_sources=counts)
        alone = localize(scene.measurement, estimator=estimator, num_sources=counts, network=None)
        several = counts >= 2
        found, before = (
            metrics.detection(estimate, scene.truth).detected[several].sum()
            for estimate in (by_network, alone)
        )
        self.assertGreater(found, 1.3 * before)
        self.assertGreater(found, 0.9 * counts[several].sum())

    @pytest.mark.full
    def test_surrogate_covariance_separates_coherent_sources(self):
        """The snapshot covariance has rank one; other arrays are refused."""
        scene = draw(**{"scene.snr_min_db": 10.0, "scene.min_sources": 2})
        counts = scene.truth.num_sources
        surrogate = pretrained.load_pretrained("subspace_network")
        learned = localize(
            scene.measurement, estimator="subspace_network", network=surrogate, num_sources=counts
        )
        alone = localize(scene.measurement, estimator="music", network=None, num_sources=counts)
        found, before = (
            metrics.detection_rate(metrics.detection(estimate, scene.truth))
            for estimate in (learned, alone)
        )
        self.assertGreater(found, 1.1 * before)
        with self.assertRaisesRegex(config_lib.ConfigError, "positions: need the 144 of its"):
            localize(scene.measurement, POSITIONS * 1.1, network=surrogate, estimator="auto")

    @pytest.mark.full
    def test_order_of_elements_does_not_matter(self):
        """The same surface with permuted elements."""
        scene = draw(**{"scene.snr_min_db": 10.0})
        order = np.random.default_rng(0).permutation(len(POSITIONS))
        shuffled = scene.measurement._replace(
            channel=scene.measurement.channel[..., order],
            codes=scene.measurement.codes[..., order],
        )
        straight = localize(scene.measurement)
        found = localize(shuffled, POSITIONS[order])
        self.assertGreater(np.mean(found.num_sources == straight.num_sources), 0.95)
        same = found.num_sources == straight.num_sources
        # Rounding separates refinements that have not converged after two steps.
        close = np.abs(found.azimuth[same] - straight.azimuth[same]) < 1e-3
        self.assertGreater(np.mean(close), 0.99)

    def test_units_do_not_matter(self):
        scene = draw()
        scaled = scene.measurement._replace(
            snapshots=scene.measurement.snapshots * 4e-6,
            noise_variance=scene.measurement.noise_variance * (4e-6) ** 2,
        )
        straight, found = localize(scene.measurement), localize(scaled)
        same = found.num_sources == straight.num_sources
        self.assertGreater(np.mean(same), 0.98)
        np.testing.assert_allclose(found.azimuth[same], straight.azimuth[same], atol=1e-4)

    @pytest.mark.full
    def test_noise_variance_unknown(self):
        scene = draw(**{"scene.snr_min_db": 10.0})
        unknown = scene.measurement._replace(
            noise_variance=np.full_like(scene.measurement.noise_variance, np.nan)
        )
        found = localize(unknown)
        detected = metrics.detection_rate(metrics.detection(found, scene.truth))
        self.assertGreater(detected, 0.9)

    @pytest.mark.full
    def test_another_array(self):
        """Weights learned on 12 x 12 elements find sources before 10 x 14 at another wavelength."""
        config = config_lib.override(
            CONFIG,
            {
                "system.rows": 10,
                "system.columns": 14,
                "system.wavelength": 0.2,
                "system.spacing": 0.1,
                "scene.snr_min_db": 10.0,
            },
        )
        scene = jax.device_get(scenes.sample_scenes(scenes.stream_key(0, "a"), config, SCENES))
        positions = np.asarray(arrays.element_positions(config.system))
        found = localization.localize(
            scene.measurement,
            positions,
            wavelength=0.2,
            network=pretrained.load_pretrained("default"),
            estimator="network",
        )
        detected = metrics.detection_rate(metrics.detection(found, scene.truth))
        self.assertGreater(detected, 0.9)

    @parameterized.named_parameters(
        ("constant", "independent", "constant", "network"),
        ("independent", "constant", "independent", "network"),
        ("auto", "constant", "independent", "auto"),
        ("music", "constant", "independent", "music"),
    )
    @pytest.mark.full  # below: `parameterized` drops marks above it
    def test_other_source_signals(self, trained, signal, estimator):
        """The grid search replaces the network, and every scene is flagged."""
        config = config_lib.override(
            CONFIG,
            {"system.source_signal": trained, "scene.max_sources": 3} | small.NETWORK,
        )
        network = pretrained.Network(config, state_lib.create_train_state(config).params)
        drawn = config_lib.override(config, {"system.source_signal": signal})
        scene = jax.device_get(scenes.sample_scenes(jax.random.key(0), drawn, 8))
        positions = np.asarray(arrays.element_positions(config.system))
        options = {"source_signal": signal, "max_sources": 3, "check": False}
        found = localize(
            scene.measurement, positions, estimator=estimator, network=network, **options
        )
        alone = "music" if estimator == "music" else "maximum_likelihood"
        expected = localize(scene.measurement, positions, estimator=alone, network=None, **options)
        flag = flags.Flag.NETWORK_NOT_USED
        self.assertTrue(np.all(found.flags & flag))
        self.assertFalse(np.any(expected.flags & flag))
        chex.assert_trees_all_equal(found._replace(flags=None), expected._replace(flags=None))

    @pytest.mark.full
    def test_another_element_response(self):
        """The grid search replaces the network; a network trained with the response is used."""
        response = ElementResponse.cosine(1.0)
        config = config_lib.override(CONFIG, {"scene.max_sources": 3} | small.NETWORK)
        own = config_lib.override(config, {"system.response_exponent": 1.0})
        params = state_lib.create_train_state(config).params
        scene = jax.device_get(scenes.sample_scenes(jax.random.key(0), own, 8))
        positions = np.asarray(arrays.element_positions(config.system))
        options = {"response": response, "max_sources": 3, "check": False}
        flag = flags.Flag.NETWORK_NOT_USED
        for trained, not_used in ((config, True), (own, False)):
            network = pretrained.Network(trained, params)
            found = localize(scene.measurement, positions, network=network, **options)
            self.assertEqual(bool(np.all(found.flags & flag)), not_used)

    def test_a_network_names_another_element_response(self):
        network = pretrained.load_pretrained("default")
        own = config_lib.override(network.config, {"system.response_exponent": 1.0})
        self.assertRegex(network.refuses(own), "response: need the element response")
        self.assertEqual(network.refuses(network.config), "")

    def test_a_subspace_network_has_one_response(self):
        network = pretrained.load_pretrained("subspace_network")
        with self.assertRaisesRegex(config_lib.ConfigError, "response: expected the element resp"):
            localize(
                draw().measurement, estimator="music", network=network,
                response=ElementResponse.cosine(1.0),
            )  # fmt: skip

    def test_trained_source_signals_have_no_flag(self):
        found = localize(draw().measurement, check=False)
        self.assertFalse(np.any(found.flags & flags.Flag.NETWORK_NOT_USED))

    def test_other_arrays_do_not_allow_other_signals(self):
        network = pretrained.load_pretrained("robust")
        need = "source_signal: need constant, which is what the network was trained for"
        with self.assertRaisesRegex(config_lib.ConfigError, need):
            network.for_array(draw().measurement, POSITIONS, 0.3, "spherical", "independent")

    def test_missing_network(self):
        with self.assertRaisesRegex(config_lib.ConfigError, "network: need one"):
            localize(draw().measurement, network=None)


class NetworkOutputTest(absltest.TestCase):
    @pytest.mark.full
    def test_shapes(self):
        network = pretrained.load_pretrained("default")
        output = network(draw().measurement)
        sources = CONFIG.scene.max_sources
        chex.assert_shape(output.coordinates, (SCENES, sources, 3))
        chex.assert_shape(output.factor, (SCENES, len(POSITIONS), sources))
        chex.assert_tree_all_finite(output)
        np.testing.assert_allclose(np.sum(output.count_probability, axis=1), 1.0, atol=1e-5)
        again = dataclasses.replace(network, card="")(draw().measurement)
        chex.assert_trees_all_equal(output, again)


if __name__ == "__main__":
    absltest.main()
