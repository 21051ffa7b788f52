"""The settings that keep LAPACK fast and free of the deadlock, in processes of their own."""

import os
import subprocess
import sys

from absl.testing import absltest, parameterized

from ris_jax import _environment

_SHOW = "import os; print(os.environ['OPENBLAS_NUM_THREADS'], os.environ.get('NPROC'))"


def _printed(code, **variables):
    env = {k: v for k, v in os.environ.items() if k not in ("OPENBLAS_NUM_THREADS", "NPROC")}
    run = subprocess.run(
        [sys.executable, "-c", code], env=env | variables, capture_output=True, check=True
    )
    return run.stdout.decode().split()


class EnvironmentTest(parameterized.TestCase):
    @parameterized.parameters("import ris_jax", "import jax, ris_jax")
    def test_set_in_either_order_of_imports(self, imports):
        few = _environment.available_cores() < 4
        self.assertEqual(_printed(f"{imports}; {_SHOW}"), ["1", "4" if few else "None"])

    def test_the_user_has_the_last_word(self):
        shown = _printed(f"import ris_jax; {_SHOW}", OPENBLAS_NUM_THREADS="3", NPROC="7")
        self.assertEqual(shown, ["3", "7"])

    def test_devices_that_are_made_of_one_have_threads_to_wait_on(self):
        flags = "--xla_a=1 --xla_force_host_platform_device_count=800"
        shown = _printed(f"import ris_jax; {_SHOW}", XLA_FLAGS=flags)
        self.assertEqual(shown, ["1", "2400"])

    def test_cores_are_those_of_the_process(self):
        first = min(os.sched_getaffinity(0))
        code = f"import os; os.sched_setaffinity(0, [{first}]); import ris_jax; {_SHOW}"
        self.assertEqual(_printed(code), ["1", "4"])


if __name__ == "__main__":
    absltest.main()
