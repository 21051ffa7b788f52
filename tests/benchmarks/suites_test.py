"""Table of suites: every cell of every suite is a valid configuration."""

import pytest
from absl.testing import parameterized

from ris_jax import config as config_lib
from ris_jax import presets
from ris_jax.benchmarks import suites


class SuitesTest(parameterized.TestCase):
    @parameterized.product(name=tuple(suites.SUITES), preset=("quickstart", "array_16x16"))
    def test_cells_have_different_configurations(self, name, preset):
        config = presets.preset(preset)
        cells = suites.SUITES[name].cells(config)
        suites.check((name,), config)
        self.assertNotEmpty(cells)
        self.assertLen({cell.label for cell in cells}, len(cells))
        self.assertLen({(cell.value, cell.series) for cell in cells}, len(cells))
        for cell in cells:
            scene = cell.config(config).scene
            self.assertLessEqual(scene.max_sources, config.scene.max_sources)
            self.assertLessEqual(cell.placement.azimuth_deg or 0, scene.azimuth_max_deg)

    def test_heat_map_holds_the_cells_by_number_of_sources(self):
        config = config_lib.Config()
        shared = {cell.changes for cell in suites.SUITES["heat_map"].cells(config)}
        wanted = {cell.changes for cell in suites.SUITES["rmse_by_num_sources"].cells(config)}
        self.assertLess(wanted, shared)

    def test_narrow_configurations_have_a_cell(self):
        changes = {"scene.range_min": 0.7, "scene.range_max": 0.8, "scene.snr_max_db": -5.0}
        config = config_lib.override(config_lib.Config(), changes)
        for suite in suites.SUITES.values():
            self.assertNotEmpty(suite.cells(config), suite.name)

    @parameterized.parameters(
        ("all", suites.NAMES),
        ("snr, overall", ("overall", "snr")),
        ("throughput,all", suites.NAMES),
    )
    def test_chosen(self, text, names):
        self.assertEqual(suites.chosen(text), names)

    def test_unknown_or_empty_choice(self):
        with pytest.raises(config_lib.ConfigError, match=r"--suite.*two_sources.*'snrs'"):
            suites.chosen("snr,snrs")
        with pytest.raises(config_lib.ConfigError, match="none given"):
            suites.chosen("")

    def test_too_few_slots(self):
        config = config_lib.override(config_lib.Config(), {"scene.max_sources": 1})
        suites.check(("overall", "range", "throughput"), config)
        with pytest.raises(config_lib.ConfigError, match="2 or more in suite separation; got 1"):
            suites.check(("range", "separation"), config)
