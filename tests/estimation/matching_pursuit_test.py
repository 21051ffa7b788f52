"""Queue of jobs; results of the search are tested with `maximum_likelihood`."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ris_jax.estimation import matching_pursuit


class InTurnTest(parameterized.TestCase):
    @parameterized.product(size=(1, 3, 7, 20), ranks=(0, 1, 2))
    def test_every_selected_job_is_processed(self, size, ranks):
        """For any queue length, low ranks come first, with the minimum number of calls."""
        rank = jnp.array([2, 0, 1, 1, 2, 0, 1])
        calls = []

        @jax.jit
        def run(rank):
            def function(jobs):
                jax.debug.callback(lambda jobs: calls.append(np.asarray(jobs)), jobs, ordered=True)
                return {"square": jobs**2, "row": jnp.stack([jobs, -jobs], axis=-1)}

            return matching_pursuit.in_turn(function, rank, ranks, size)

        found = jax.device_get(run(rank))
        jax.effects_barrier()
        wanted = np.flatnonzero(np.asarray(rank) < ranks)
        np.testing.assert_array_equal(found["square"][wanted], wanted**2)
        np.testing.assert_array_equal(found["row"][wanted], np.stack([wanted, -wanted], axis=-1))
        self.assertLen(calls, -(-len(wanted) // min(size, 7)))
        done = np.concatenate([*calls, np.zeros(0, int)])
        self.assertContainsSubset(wanted, done)
        self.assertTrue(np.all(np.diff(np.asarray(rank)[done[: len(wanted)]]) >= 0))


if __name__ == "__main__":
    absltest.main()
