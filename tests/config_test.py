"""Configurations: validation of every field, keys, round trips, presets."""

import dataclasses
import json

from absl.testing import absltest, parameterized

from ris_jax import config as config_lib
from ris_jax import presets

POSITIONS = ((0.0, 0.0, 0.0), (0.1, 0.2, 0.3))


class ValidationTest(parameterized.TestCase):
    @parameterized.parameters(
        ("system.wavelength", 0.0),
        ("system.rows", 0),
        ("system.columns", -1),
        ("system.spacing", 0.0),
        ("system.num_antennas", 0),
        ("system.num_snapshots", 0),
        ("system.codebook", "zigzag"),
        ("system.wavefront", "cubic"),
        ("system.source_signal", "burst"),
        ("system.phase_bits", 0),
        ("system.phase_bits", 17),
        ("scene.min_sources", 0),
        ("scene.range_min", 0.0),
        ("scene.path_loss", "cubic"),
        ("scene.rician_factor_min", -0.1),
        ("scene.max_sources", 0),
        ("scene.max_sources", 144),
        ("scene.range_max", 0.4),
        ("scene.snr_max_db", -6.0),
        ("scene.rician_factor_max", 0.001),
        ("scene.azimuth_max_deg", 90.0),
        ("scene.azimuth_max_deg", 0.0),
        ("scene.elevation_max_deg", 95.0),
        ("impairments.position_jitter", -1e-3),
        ("impairments.phase_error", -0.1),
        ("impairments.amplitude_error_db", -1.0),
        ("impairments.channel_error", -0.1),
        ("impairments.beta_exponent", -1.0),
        ("impairments.dead_fraction", 1.0),
        ("impairments.dead_fraction", -0.1),
        ("impairments.beta_min", 1.1),
        ("model.rounds", 0),
        ("model.candidates", 0),
        ("model.iterations", 0),
        ("model.width", 0),
        ("model.depth", 0),
        ("model.num_heads", 0),
        ("model.num_heads", 3),
        ("model.mlp_ratio", 0),
        ("model.dropout", 1.0),
        ("model.compute_dtype", "float16"),
        ("covariance.blend", 1.0),
        ("covariance.blend", -0.1),
        ("covariance.shrinkage", -0.1),
        ("loss.covariance", -1.0),
        ("loss.existence", -1.0),
        ("loss.offset", -1.0),
        ("loss.count", -1.0),
        ("optimizer.method", "sgd"),
        ("optimizer.learning_rate", -1e-3),
        ("optimizer.weight_decay", -1e-3),
        ("optimizer.head_multiplier", 0.0),
        ("optimizer.clip_norm", 0.0),
        ("optimizer.accumulation", 0),
        ("optimizer.max_consecutive_nonfinite", 0),
        ("optimizer.warmup_fraction", 1.0),
        ("optimizer.ema_decay", 1.0),
        ("optimizer.final_fraction", 1.1),
        ("training.epochs", 0),
        ("training.steps_per_epoch", 0),
        ("training.batch_size", 0),
        ("training.validation_scenes", 0),
        ("training.log_every", 0),
        ("training.keep_checkpoints", 0),
        ("training.seed", -1),
        ("training.seed", 2**32),
        ("training.fixed_scenes", -1),
        ("training.fixed_scenes", 63),
        ("training.early_stopping_epochs", -1),
    )
    def test_out_of_domain(self, name, value):
        """The message names the field and shows the value."""
        with self.assertRaises(config_lib.ConfigError) as caught:
            config_lib.override(config_lib.Config(), {name: value})
        self.assertStartsWith(str(caught.exception), f"{name}: need ")

    @parameterized.product(
        name=("system.wavelength", "scene.range_max", "scene.snr_max_db", "impairments.beta_phase"),
        value=(float("nan"), float("inf")),
    )
    def test_not_a_number(self, name, value):
        with self.assertRaisesRegex(config_lib.ConfigError, f"^{name}: need "):
            config_lib.override(config_lib.Config(), {name: value})

    def test_positions_are_rows_of_three(self):
        with self.assertRaisesRegex(config_lib.ConfigError, "system.element_positions: need rows"):
            config_lib.SystemConfig(element_positions=((0.0, 0.0),))

    @parameterized.parameters(
        ((*POSITIONS, POSITIONS[0]), "need 3 places; got 2"),
        ((*POSITIONS, (0.0, float("nan"), 0.0)), "need finite metres"),
    )
    def test_positions_are_distinct_and_finite(self, positions, message):
        """Coinciding elements once caused an endless search."""
        with self.assertRaisesRegex(config_lib.ConfigError, f"element_positions: {message}"):
            config_lib.SystemConfig(element_positions=positions)

    def test_choices_are_listed(self):
        with self.assertRaisesRegex(
            config_lib.ConfigError,
            "need one of spherical, spherical_phase, fresnel, .*; got 'cubic'",
        ):
            config_lib.override(config_lib.Config(), {"system.wavefront": "cubic"})

    def test_all_loss_weights_zero(self):
        names = [field.name for field in dataclasses.fields(config_lib.LossConfig)]
        with self.assertRaisesRegex(config_lib.ConfigError, "loss: need at least one weight"):
            config_lib.LossConfig(**dict.fromkeys(names, 0.0))

    @parameterized.parameters(
        ("system.wavelength", True), ("training.epochs", True), ("impairments.varied", 1)
    )
    def test_truth_values_are_not_numbers(self, name, value):
        with self.assertRaisesRegex(config_lib.ConfigError, name):
            config_lib.override(config_lib.Config(), {name: value})

    @parameterized.parameters(
        ("system.phase_bits", None),
        ("scene.max_sources", 143),
        ("scene.range_max", 0.5),
        ("scene.snr_max_db", -5.0),
        ("impairments.beta_min", 0.0),
        ("model.num_heads", 64),
        ("optimizer.learning_rate", 0.0),
        ("optimizer.final_fraction", 1.0),
        ("training.fixed_scenes", 64),
    )
    def test_limits_are_allowed(self, name, value):
        config = config_lib.override(config_lib.Config(), {name: value})
        self.assertEqual(config_lib.flatten(config_lib.to_dict(config))[name], value)

    def test_sources_are_fewer_than_the_elements_given(self):
        with self.assertRaisesRegex(config_lib.ConfigError, r"scene\.max_sources.*N=2"):
            config_lib.override(
                config_lib.Config(),
                {"system.element_positions": POSITIONS, "system.num_snapshots": 2},
            )

    def test_frozen(self):
        with self.assertRaises(dataclasses.FrozenInstanceError):
            config_lib.Config().loss.covariance = 0.0


class PropertiesTest(parameterized.TestCase):
    def test_num_elements(self):
        self.assertEqual(config_lib.SystemConfig(rows=3, columns=6).num_elements, 18)
        system = config_lib.SystemConfig(element_positions=POSITIONS, num_snapshots=2)
        self.assertEqual(system.num_elements, 2)

    @parameterized.parameters((10, 1, 30), (10, 4, 9), (7, 4, 6), (3, 3, 3))
    def test_total_updates(self, steps, accumulation, updates):
        """Count updates of 3 epochs; a partial window at the end of an epoch is an update."""
        config = config_lib.override(
            config_lib.Config(),
            {
                "training.epochs": 3,
                "training.steps_per_epoch": steps,
                "optimizer.accumulation": accumulation,
            },
        )
        self.assertEqual(config.total_updates, updates)

    @parameterized.parameters(
        ({"training.epochs": 1, "training.steps_per_epoch": 3, "optimizer.accumulation": 4},
         "optimizer.accumulation: need at most steps_per_epoch=3; got 4"),
        ({"training.fixed_scenes": 64, "training.validate_on_training_scenes": True},
         "training.validation_scenes: need at most fixed_scenes=64"),
        ({"loss.count": 10**400}, "loss.count: need a finite number"),
    )  # fmt: skip
    def test_contradictions(self, values, message):
        with self.assertRaisesRegex(config_lib.ConfigError, message):
            config_lib.override(config_lib.Config(), values)


class DictionariesTest(parameterized.TestCase):
    def test_round_trip(self):
        config = config_lib.override(
            config_lib.Config(),
            {
                "system.phase_bits": None,
                "system.num_snapshots": 6,
                "system.element_positions": [[0.1 * i, 0.0, 0.2] for i in range(6)],
                "loss.count": 1,
                "training.validate_on_training_scenes": True,
            },
        )
        text = json.dumps(config_lib.to_dict(config), allow_nan=False)
        restored = config_lib.from_dict(json.loads(text))
        self.assertEqual(restored, config)
        self.assertEqual(hash(restored), hash(config))
        self.assertIsInstance(config.loss.count, float)

    def test_files_keep_their_meaning(self):
        """In format version 1, spherical waves had equal modulus on all elements."""
        new = config_lib.to_stored(config_lib.Config())
        self.assertEqual(new["format_version"], 2)
        self.assertEqual(config_lib.from_stored(new), config_lib.Config())
        old = {name: section for name, section in new.items() if name != "format_version"}
        for values in (old, old | {"format_version": 1}, old | {"system": {}}):
            found = config_lib.from_stored(values)
            self.assertEqual(found.system.wavefront, "spherical_phase")
            self.assertEqual(config_lib.from_stored(config_lib.to_stored(found)), found)
        self.assertEqual(old["system"]["wavefront"], "spherical")  # not changed in place
        fresnel = old | {"system": old["system"] | {"wavefront": "fresnel"}}
        self.assertEqual(config_lib.from_stored(fresnel).system.wavefront, "fresnel")

    @parameterized.parameters({}, {"system": {"wavefront": "spherical"}}, {"model": {"width": 32}})
    def test_files_written_by_hand_use_present_terms(self, **values):
        """Such files lack the format version and some sections."""
        self.assertEqual(config_lib.from_stored(values).system.wavefront, "spherical")

    @parameterized.parameters(3, "2", True, None, 1.5)
    def test_unknown_format_version(self, version):
        with self.assertRaisesRegex(config_lib.ConfigError, "format_version: need 2 or 1; got"):
            config_lib.from_stored({"format_version": version})

    def test_absent_keys_are_defaults(self):
        self.assertEqual(config_lib.from_dict({}), config_lib.Config())
        config = config_lib.from_dict({"model": {"width": 96}})
        self.assertEqual(config.model, config_lib.ModelConfig(width=96))

    @parameterized.parameters(({"modell": {}}, "modell"), ({"model": {"depht": 2}}, "depht"))
    def test_unknown_key(self, values, name):
        with self.assertRaisesRegex(
            config_lib.ConfigError, f"unknown configuration key: .*{name}.*known: .*model.depth"
        ):
            config_lib.from_dict(values)

    @parameterized.parameters(
        ({"model": {"width": "wide"}}, "model.width"),
        ({"model": {"width": 1.5}}, "model.width"),
        ({"system": {"wavelength": "0.3"}}, "system.wavelength"),
        ({"system": {"element_positions": [[0.0, 0.0]]}}, "system.element_positions"),
        ({"system": {"element_positions": [1]}}, "system.element_positions"),
        ({"system": {"element_positions": {"x": None}}}, "system.element_positions"),
        ({"system": {"element_positions": "abc"}}, "system.element_positions"),
        ({"model": 3}, "model"),
    )
    def test_wrong_type(self, values, name):
        with self.assertRaisesRegex(config_lib.ConfigError, f"^(configuration: .*)?{name}"):
            config_lib.from_dict(values)

    def test_not_an_object(self):
        with self.assertRaisesRegex(config_lib.ConfigError, r"need an object .*; got \[1\]"):
            config_lib.from_dict([1])

    def test_messages_are_short(self):
        long = "a" * 5000
        config = config_lib.Config()
        for values in ({"system.codebook": long}, {"model.width": long}, {long: 1}):
            with self.assertRaises(config_lib.ConfigError) as caught:
                config_lib.override(config, values)
            self.assertLess(len(str(caught.exception)), 500)

    def test_flatten(self):
        flat = config_lib.flatten({"a": 1, "b": {"c": 2, "d": {"e": None}}})
        self.assertEqual(flat, {"a": 1, "b.c": 2, "b.d.e": None})

    def test_override(self):
        base = config_lib.Config()
        config = config_lib.override(base, {"model.width": 96, "system.rows": 8})
        self.assertEqual((config.model.width, config.system.rows), (96, 8))
        self.assertEqual(base, config_lib.Config())
        self.assertEqual(config_lib.override(base, {}), base)

    @parameterized.parameters("model.depht", "modell.depth", "depth", "model.depth.deeper")
    def test_override_unknown(self, name):
        with self.assertRaisesRegex(config_lib.ConfigError, f"unknown configuration key: {name}"):
            config_lib.override(config_lib.Config(), {name: 1})

    @parameterized.parameters(
        ("model.depht", "model.depth"),
        ("depth", "model.depth"),
        ("system.row", "system.rows"),
        ("learning_rate", "optimizer.learning_rate"),
        ("model.rows", "system.rows"),
        ("qwerty", None),
    )
    def test_suggested_key(self, name, meant):
        with self.assertRaises(config_lib.ConfigError) as caught:
            config_lib.override(config_lib.Config(), {name: 1})
        self.assertEndsWith(
            str(caught.exception), f"{name} (did you mean {meant}?)" if meant else name
        )

    def test_difference(self):
        ours = config_lib.Config()
        theirs = config_lib.override(ours, {"model.width": 96, "system.phase_bits": None})
        self.assertEqual(config_lib.difference(ours, ours), [])
        self.assertEqual(
            config_lib.difference(ours, theirs),
            ["system.phase_bits=3 (there None)", "model.width=64 (there 96)"],
        )


class PresetsTest(parameterized.TestCase):
    @parameterized.parameters(*presets.NAMES)
    def test_valid(self, name):
        config = presets.preset(name)
        self.assertEqual(config_lib.from_dict(config_lib.to_dict(config)), config)

    def test_names(self):
        """The first name is the default of `train`."""
        self.assertContainsSubset(("quickstart", "reference", "overfit", "large"), presets.NAMES)

    def test_robust_varies_its_impairments(self):
        impairments = presets.preset("robust").impairments
        self.assertTrue(impairments.varied)
        self.assertGreater(impairments.position_jitter, 0.0)

    def test_overfit_repeats_its_scenes(self):
        training = presets.preset("overfit").training
        self.assertGreater(training.fixed_scenes, 0)
        self.assertTrue(training.validate_on_training_scenes)

    def test_unknown(self):
        with self.assertRaisesRegex(config_lib.ConfigError, "preset: .*quickstart.*'huge'"):
            presets.preset("huge")


if __name__ == "__main__":
    absltest.main()
