"""Baselines on cases of their papers: `paper_cases_sparse.py`, `paper_cases_near_field.py`.

  python experiments/paper_cases.py --cases=1,2,3,4

The headers of these two modules describe the cases, the results, and the claims of the papers.
"""

import ris_jax  # noqa: F401  Before jax: it sets threads that JAX reads when it starts.

# isort: split
import paper_cases_near_field as near_field
import paper_cases_sparse as sparse
from absl import app, flags

from ris_jax import config as config_lib
from ris_jax.reports import provenance, tables

_TRIALS = flags.DEFINE_integer("num_trials", 200, "trials in every cell", lower_bound=1)
_CASES = flags.DEFINE_list("cases", ["1", "2", "3", "4"], "cases to run")
_SUPPORTS = flags.DEFINE_integer(
    "num_supports", 4000, "trials per cell of case 1, which is cheap", lower_bound=1
)


def main(_):
    """Print a table for each case."""
    print(provenance.header(config_lib.Config()), flush=True)
    tasks = {
        "1": lambda: sparse.recovery_table(_SUPPORTS.value),
        "2": lambda: sparse.direction_table(_TRIALS.value),
        "3": lambda: near_field.surface_table(_TRIALS.value),
        "4": lambda: near_field.line_table(_TRIALS.value),
    }
    unknown = sorted(set(_CASES.value) - set(tasks))
    if unknown:
        raise app.UsageError(f"--cases: need some of {', '.join(tasks)}; got {', '.join(unknown)}")
    for name in _CASES.value:
        print(f"\nCase {name}\n" + tables.as_text(*tasks[name]()), flush=True)


if __name__ == "__main__":
    app.run(main)
