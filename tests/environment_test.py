"""Environment variables for LAPACK and XLA, in separate processes."""

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


# One of two devices waits for the other for longer than XLA's limit of one second.
_ALARM = """
import jax, time
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

def wait(index):
    time.sleep(2.0 * float(index))
    return index

def total(x):
    return jax.lax.psum(jax.pure_callback(wait, jax.ShapeDtypeStruct((), x.dtype), x[0]), "d")

mesh = jax.sharding.Mesh(jax.devices(), ("d",))
shared = jax.shard_map(total, mesh=mesh, in_specs=P("d"), out_specs=P(), check_vma=False)
print(jax.jit(shared)(jnp.arange(2.0)))
"""


class EnvironmentTest(parameterized.TestCase):
    @parameterized.parameters("import ris_jax", "import jax, ris_jax")
    def test_set_in_either_order_of_imports(self, imports):
        few = _environment.available_cores() < 4
        self.assertEqual(_printed(f"{imports}; {_SHOW}"), ["1", "4" if few else "None"])

    def test_one_thread(self):
        """Only if the user has not set another number."""
        one = f"from ris_jax import _environment; _environment.use_one_thread(); {_SHOW}"
        self.assertEqual(_printed(one), ["1", "1"])
        self.assertEqual(_printed(one, NPROC="7"), ["1", "7"])

    def test_variables_of_the_user_are_kept(self):
        shown = _printed(f"import ris_jax; {_SHOW}", OPENBLAS_NUM_THREADS="3", NPROC="7")
        self.assertEqual(shown, ["3", "7"])

    def test_emulated_devices_have_enough_threads(self):
        flags = "--xla_a=1 --xla_force_host_platform_device_count=800"
        shown = _printed(f"import ris_jax; {_SHOW}", XLA_FLAGS=flags)
        self.assertEqual(shown, ["1", "2400"])

    def test_available_cores_of_the_process(self):
        first = min(os.sched_getaffinity(0))
        code = f"import os; os.sched_setaffinity(0, [{first}]); import ris_jax; {_SHOW}"
        self.assertEqual(_printed(code), ["1", "4"])

    @parameterized.parameters((False, True), (True, False))
    def test_alarms_of_xla_are_hidden(self, silent, shown):
        code = "import ris_jax; " + "ris_jax._environment.silence_xla()" * silent + _ALARM
        kept = {k: v for k, v in os.environ.items() if k not in ("NPROC", "TF_CPP_MIN_LOG_LEVEL")}
        kept["XLA_FLAGS"] = (
            "--xla_force_host_platform_device_count=2 "
            "--xla_cpu_collective_call_warn_stuck_timeout_seconds=1"
        )
        run = subprocess.run(
            [sys.executable, "-c", code], env=kept, capture_output=True, text=True, check=True
        )
        self.assertEqual(run.stdout, "1.0\n")
        self.assertEqual("has been waiting" in run.stderr, shown, run.stderr)

    def test_the_command_line_hides_them(self):
        code = "from ris_jax.cli import main; main.main(['ris-jax', '--help']); "
        for given, left in ({}, "3"), ({"TF_CPP_MIN_LOG_LEVEL": "0"}, "0"):
            kept = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
            show = "import os; print(os.environ['TF_CPP_MIN_LOG_LEVEL'])"
            run = subprocess.run(
                [sys.executable, "-c", code + show], env=kept | given, capture_output=True,
                text=True, check=True,
            )  # fmt: skip
            self.assertEqual(run.stdout.splitlines()[-1], left)

    def test_only_a_command_looks_for_cycles_rarely(self):
        """Importing the package changes nothing; the command line owns its process."""
        show = "print(gc.get_threshold()[0])"
        self.assertEqual(_printed(f"import gc, ris_jax; {show}"), _printed(f"import gc; {show}"))
        code = (
            "import atexit, gc, sys; from ris_jax.cli import main; sys.argv = ['ris-jax', '-h']; "
            f"atexit.register(lambda: {show}); main.console()"
        )
        self.assertEqual(_printed(code)[-1], "100000")


if __name__ == "__main__":
    absltest.main()
