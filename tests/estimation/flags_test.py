"""Flags: bits, names and sentences."""

import numpy as np
from absl.testing import absltest

from ris_jax.estimation import flags
from ris_jax.estimation.flags import Flag


class FlagsTest(absltest.TestCase):
    def test_every_flag_has_its_own_sentence(self):
        sentences = [flag.sentence for flag in Flag]
        self.assertLen(set(sentences), len(Flag))
        self.assertTrue(all(text and "\n" not in text and text[-1] != "." for text in sentences))

    def test_bits_fit_an_int32(self):
        self.assertLess(max(Flag), 2**31)
        self.assertEqual(sum(Flag), np.bitwise_or.reduce([int(flag) for flag in Flag]))

    def test_names(self):
        self.assertEqual(flags.names(Flag.MISFIT | Flag.ON_LIMIT), ["on_limit", "misfit"])
        self.assertEqual(flags.names(0), [])

    def test_summary(self):
        found = flags.summary(np.array([0, Flag.MISFIT, Flag.MISFIT | Flag.UNITS]))
        self.assertEqual(
            found,
            [
                f"misfit, 2 of 3 scenes: {Flag.MISFIT.sentence}",
                f"units, 1 of 3 scenes: {Flag.UNITS.sentence}",
            ],
        )
        self.assertEqual(
            flags.summary(np.array([Flag.MISFIT | Flag.UNITS]), Flag.UNITS),
            [f"units, 1 of 1 scenes: {Flag.UNITS.sentence}"],
        )
        self.assertEqual(flags.summary(None), [])
        self.assertEqual(flags.summary(np.zeros(3, int)), [])


if __name__ == "__main__":
    absltest.main()
