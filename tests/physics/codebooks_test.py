"""Phase codes: quantisation, conditioning, and hardware response."""

import functools
import pathlib
import tempfile
import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ris_jax import config as config_lib
from ris_jax import errors
from ris_jax.physics import arrays, channel, codebooks

CODEBOOKS = ("dft2d", "dft1d", "random", "hadamard", "mixed")
LINE = tuple((0.1 * i, 0.0, 0.0) for i in range(14))


class CodesFileTest(parameterized.TestCase):
    def path(self, **arrays):
        path = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory())) / "codes.npz"
        np.savez(path, **arrays)
        return path

    def test_replaces_the_codebook(self):
        codes = np.exp(1j * np.arange(8.0)).reshape(2, 4)
        path = self.path(codes=codes, levels=np.zeros((2, 4)))
        system = config_lib.SystemConfig(rows=2, columns=2, num_snapshots=2, codes_file=str(path))
        chex.assert_trees_all_close(codebooks.codebook(system), codes.astype(np.complex64))

    def test_wrong_size(self):
        path = self.path(codes=np.ones((2, 5)))
        system = config_lib.SystemConfig(rows=2, columns=2, num_snapshots=2, codes_file=str(path))
        with self.assertRaisesRegex(config_lib.ConfigError, r"codes_file.*\(2, 4\).*\(2, 5\)"):
            codebooks.codebook(system)

    @parameterized.parameters(
        ({"code": np.ones((2, 3))}, "codes"),
        ({"codes": np.ones(3)}, r"\[L, N\]"),
        ({"codes": np.array([["a"]])}, r"\[L, N\]"),
        ({"codes": np.array([[np.nan]])}, "NaN"),
    )
    def test_unusable(self, arrays, message):
        with self.assertRaisesRegex(errors.RunError, message):
            codebooks.read_codes(self.path(**arrays))

    def test_not_an_npz_file(self):
        path = self.path(codes=np.ones((1, 1)))
        for content in (b"", b"PK\x03\x04", b"text"):
            path.write_bytes(content)
            with self.assertRaisesRegex(errors.RunError, "need an .npz file"):
                codebooks.read_codes(path)


class QuantizePhaseTest(parameterized.TestCase):
    @parameterized.parameters(1, 2, 3, 6)
    def test_nearest_grid_phase(self, bits):
        step = 2 * np.pi / 2**bits
        codes = jnp.exp(1j * jnp.linspace(-3.1, 3.1, 101))
        quantized = jax.jit(functools.partial(codebooks.quantize_phase, phase_bits=bits))(codes)
        levels = np.angle(quantized) / step
        chex.assert_trees_all_close(levels, np.round(levels), atol=1e-5)
        error = np.abs(np.angle(quantized / codes))
        self.assertLessEqual(error.max(), step / 2 + 1e-5)

    def test_continuous(self):
        codes = jnp.exp(1j * jnp.linspace(-3.1, 3.1, 101))
        chex.assert_trees_all_close(codebooks.quantize_phase(codes, None), codes, atol=1e-6)


class CodebookTest(parameterized.TestCase):
    @parameterized.product(
        name=CODEBOOKS,
        system=(
            {},
            {"rows": 5, "columns": 6, "num_snapshots": 12},
            {"rows": 3, "columns": 3, "num_snapshots": 7, "phase_bits": None},
            {"num_snapshots": 9, "phase_bits": 2, "element_positions": LINE},
        ),
    )
    def test_shape_modulus_and_grid(self, name, system):
        config = config_lib.SystemConfig(codebook=name, **system)
        codes = codebooks.codebook(config)
        chex.assert_shape(codes, (config.num_snapshots, config.num_elements))
        chex.assert_trees_all_close(jnp.abs(codes), np.ones(codes.shape), atol=1e-6)
        if config.phase_bits is not None:
            levels = np.angle(codes) * 2**config.phase_bits / (2 * np.pi)
            chex.assert_trees_all_close(levels, np.round(levels), atol=1e-5)
        different = np.unique(np.round(np.asarray(codes), 4), axis=0)
        self.assertLen(different, config.num_snapshots)

    @parameterized.parameters((None,), (3,))
    def test_dft2d_covers_both_axes(self, phase_bits):
        """The reference's choice of 16 of 64 beams had only 2 horizontal ones."""
        codes = codebooks.codebook(config_lib.SystemConfig(phase_bits=phase_bits))
        spectrum = np.abs(np.fft.fft2(np.asarray(codes).reshape(16, 12, 12)))
        peaks = spectrum.reshape(16, -1).argmax(axis=1)
        vertical, horizontal = np.unravel_index(peaks, (12, 12))
        self.assertLen(set(vertical), 4)
        self.assertLen(set(horizontal), 4)
        self.assertLen(set(peaks), 16)

    def test_conditioning(self):
        """Compare the condition number of Phi, default sizes, median of 12 channels.

        The default codebook has the lowest, so the field can be estimated.
        Measured: dft2d 6.4, mixed 7.1, dft1d 7.1, random 7.3, hadamard 111.
        """
        positions = arrays.element_positions(config_lib.SystemConfig())
        draw = functools.partial(
            channel.rician_channel, num_antennas=16, wavelength=0.3, rician_factor=0.03
        )
        keys = jax.random.split(jax.random.key(0), 12)
        channels = np.asarray(jax.jit(jax.vmap(lambda key: draw(key, positions)))(keys), complex)
        medians = {}
        for name in CODEBOOKS:
            codes = np.asarray(codebooks.codebook(config_lib.SystemConfig(codebook=name)), complex)
            grams = (channels.swapaxes(1, 2).conj() @ channels) * (codes.conj().T @ codes)
            eigenvalues = np.linalg.eigvalsh(grams)  # of Phi^H Phi
            medians[name] = float(np.median(np.sqrt(eigenvalues[:, -1] / eigenvalues[:, 0])))
        print({name: round(median, 2) for name, median in medians.items()})
        self.assertAlmostEqual(medians["dft2d"], 7.0, delta=1.0)
        self.assertEqual(min(medians, key=medians.get), "dft2d")
        self.assertEqual(config_lib.SystemConfig().codebook, "dft2d")

    def test_too_many_beams(self):
        for name, count in (("dft2d", 7), ("dft1d", 7), ("mixed", 13)):
            with self.assertRaisesRegex(ValueError, f"num_snapshots: .*N=6.*{name}; got {count}"):
                config_lib.SystemConfig(rows=2, columns=3, num_snapshots=count, codebook=name)

    def test_unknown_name(self):
        fields = vars(config_lib.SystemConfig()) | {"codebook": "zigzag", "num_elements": 144}
        with self.assertRaisesRegex(ValueError, "codebook: need one of dft2d.*got 'zigzag'"):
            codebooks.codebook(types.SimpleNamespace(**fields))


class PhaseDependentAmplitudeTest(absltest.TestCase):
    def test_limits(self):
        """Eq. (5) has its maximum 1 at phi + pi/2 and its minimum beta_min at phi - pi/2."""
        amplitude = functools.partial(
            codebooks.phase_dependent_amplitude, beta_min=0.2, beta_phase=1.35, beta_exponent=1.6
        )
        self.assertAlmostEqual(float(amplitude(jnp.array(1.35 + np.pi / 2))), 1.0, places=5)
        self.assertAlmostEqual(float(amplitude(jnp.array(1.35 - np.pi / 2))), 0.2, places=5)
        middle = 0.2 + 0.8 * 0.5**1.6  # sin = 0
        self.assertAlmostEqual(float(amplitude(jnp.array(1.35))), middle, places=5)

    def test_ideal_element(self):
        phase = jnp.linspace(-jnp.pi, jnp.pi, 50)
        lossless = {"beta_min": 1.0, "beta_exponent": 1.6}
        flat = {"beta_min": 0.0, "beta_exponent": 0.0}
        for options in (lossless, flat):
            amplitude = codebooks.phase_dependent_amplitude(phase, beta_phase=1.35, **options)
            chex.assert_trees_all_close(amplitude, np.ones(50), atol=1e-6)


class HardwareResponseTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        phases = jax.random.uniform(jax.random.key(1), (3, 4000), maxval=2 * jnp.pi)
        self.codes = jnp.exp(1j * phases)

    def ratio(self, **impairments):
        """Return the applied over the nominal code, [L, N]."""
        config = config_lib.ImpairmentConfig(**impairments)
        respond = jax.jit(codebooks.hardware_response, static_argnums=2)
        return np.asarray(respond(jax.random.key(0), self.codes, config) / self.codes)

    def test_ideal_hardware(self):
        chex.assert_trees_all_close(self.ratio(), np.ones((3, 4000), complex), atol=1e-6)

    def test_phase_error(self):
        """The standard deviation is within four standard errors, 0.3 / sqrt(2 * 4000)."""
        ratio = self.ratio(phase_error=0.3)
        chex.assert_trees_all_close(np.abs(ratio), np.ones((3, 4000)), atol=1e-5)
        self.assertAlmostEqual(np.angle(ratio[0]).std(), 0.3, delta=4 * 0.3 / 8000**0.5)
        chex.assert_trees_all_close(ratio[0], ratio[2], atol=1e-5)  # a property of the element

    def test_amplitude_error(self):
        decibels = 20 * np.log10(np.abs(self.ratio(amplitude_error_db=2.0)))
        self.assertAlmostEqual(decibels[0].std(), 2.0, delta=4 * 2.0 / 8000**0.5)
        chex.assert_trees_all_close(decibels[0], decibels[2], atol=1e-4)

    def test_dead_elements(self):
        """The binomial fraction has a standard error of sqrt(0.3 * 0.7 / 4000)."""
        ratio = self.ratio(dead_fraction=0.3)
        dead = np.abs(ratio) < 1e-6
        self.assertAlmostEqual(dead[0].mean(), 0.3, delta=4 * (0.3 * 0.7 / 4000) ** 0.5)
        chex.assert_trees_all_equal(dead[0], dead[2])
        chex.assert_trees_all_close(ratio[~dead], np.ones((~dead).sum(), complex), atol=1e-6)

    def test_lossy_elements(self):
        """Uniform phases, exponent 1: mean amplitude 0.2 + 0.8 / 2, deviation 0.8 / sqrt(8)."""
        amplitude = np.abs(self.ratio(beta_min=0.2, beta_exponent=1.0))
        self.assertGreaterEqual(amplitude.min(), 0.2 - 1e-5)
        self.assertLessEqual(amplitude.max(), 1.0 + 1e-5)
        self.assertAlmostEqual(amplitude.mean(), 0.6, delta=4 * 0.8 / (8 * 12000) ** 0.5)


if __name__ == "__main__":
    absltest.main()
