"""The queue of scenes; what the search finds is tested as `maximum_likelihood`."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ris_jax.estimators import matching_pursuit


class WorkOffTest(parameterized.TestCase):
    @parameterized.parameters(1, 3, 7, 20)
    def test_every_task_gets_the_steps_it_needs(self, size):
        """Whatever the queue's length; tasks that are not open are left alone."""
        needed = jnp.array([0, 1, 5, 2, 3, 1, 4])
        zero = jnp.zeros(7, jnp.int32)
        tasks = matching_pursuit.Task(needed, zero, zero, fit=zero, attempts=zero)
        is_open = needed > 0

        def step(task):
            task = task._replace(fit=task.fit + 1, attempts=task.attempts + 10)
            return task, task.fit < task.observation

        @jax.jit
        def run(tasks, is_open):
            return matching_pursuit.work_off(step, tasks, is_open, size)

        done, touched = run(tasks, is_open)
        np.testing.assert_array_equal(done.fit, needed)
        np.testing.assert_array_equal(done.attempts, 10 * needed)
        np.testing.assert_array_equal(touched, needed > 1)
        done, touched = run(tasks, jnp.zeros(7, bool))
        np.testing.assert_array_equal(done.fit, 0)
        self.assertFalse(np.any(touched))


if __name__ == "__main__":
    absltest.main()
