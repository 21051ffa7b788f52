"""Localised scenes a second: maximum likelihood, blind, up to 5 sources.

  python experiments/localization_speed.py

Default scenes (K from 1 to 5, SNR -5 to 20 dB); compile time apart. Beside the rate stand the
floating-point operations of a scene, counted from the sizes of the matrix products that a scene
went through (its rounds of growing and improving, 8 operations a complex product), the rate of a
large float32 matrix product on the same machine, and the accuracy on the same scenes.

Gave (23 November 2026; x86_64, 2 cores, Python 3.11.7, jax 0.10.2; 98 Gflop/s), 3 minutes:

       signal  at once  scenes/s  compile [s]  Mflop/scene  % of rate  azimuth  count right
     constant       64     105.8           15          241       26.0    0.809        0.784
     constant      128     112.0           17          240       27.5    0.799        0.789
     constant      256     110.3           17          242       27.2    0.826        0.784
  independent       64      48.5           18          963       47.6    0.927        0.709
  independent      128      43.4           19          969       43.0    0.914        0.714
  independent      256      36.6           21          977       36.5    0.936        0.660

(azimuth: median |error| over the bound, missed sources counted as infinite errors).
"""

import time

import ris_jax  # noqa: F401  Before jax: it sets threads that JAX reads when it starts.

# isort: split
import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from ris_jax import arrays, bounds, metrics, scenes, statistics
from ris_jax import config as config_lib
from ris_jax.estimators import matching_pursuit, maximum_likelihood
from ris_jax.reports import provenance, tables

_SECONDS = flags.DEFINE_float("seconds", 6.0, "time spent on each row")
_BATCHES = flags.DEFINE_list("batches", ["64", "128", "256"], "scenes at once")
_SIGNALS = flags.DEFINE_list("signals", ["constant", "independent"], "source signals")
_SIZE = 2048


def matrix_rate() -> float:
    """Operations a second of a large float32 matrix product."""
    matrix = jnp.ones((_SIZE, _SIZE))
    product = jax.jit(lambda a: a @ a)
    product(matrix).block_until_ready()
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < 2.0:
        product(matrix).block_until_ready()
        count += 1
    return 2.0 * _SIZE**3 * count / (time.perf_counter() - began)


def operations(config: config_lib.Config, options, num_found: float) -> float:
    """Matrix-product operations of a scene: steering vectors through the operator, and the grid.

    Growing takes a round more than there are sources (no more than K_max); improving one round.
    """
    system = config.system
    most = config.scene.max_sources
    constant = system.source_signal == "constant"
    elements, rows = system.num_elements, system.num_snapshots * system.num_antennas
    through = 8.0 * elements * (elements if constant else rows)
    matched = 8.0 * elements * np.prod(options.grid) * (1 if constant else system.num_snapshots)
    joint = 4 * most
    rounds = min(num_found + 1.0, most)
    grow = (
        options.candidates
        + 4 * options.finalists * (options.candidate_iterations + 1)
        + joint * (options.joint_iterations + 1)
    )
    pairs = 52  # vectors: two for each of the 26 pairs of `proposals.propose_pair`
    improve = most * (options.candidates + pairs) + 3 * joint * (options.final_iterations + 1)
    return float((rounds * grow + improve) * through + (rounds + most) * matched)


def row(config: config_lib.Config, batch: int, ceiling: float) -> tuple:
    """Rate, operations and accuracy of one batch size."""
    system, options = config.system, matching_pursuit.SearchOptions()
    positions = arrays.element_positions(system)
    draw = jax.jit(lambda key: scenes.sample_scenes(key, config, batch))
    key = scenes.stream_key(config.training.seed, "speed")
    first = draw(key)

    def estimate(scene):
        return jax.block_until_ready(
            maximum_likelihood.maximum_likelihood(
                scene.measurement,
                positions,
                wavelength=system.wavelength,
                source_signal=system.source_signal,
                options=options,
            )
        )

    began = time.perf_counter()
    estimate(first)
    compiled = time.perf_counter() - began
    spent, number, deviations, right, found = 0.0, 0, [], [], []
    while spent < _SECONDS.value:
        scene = jax.block_until_ready(draw(jax.random.fold_in(key, number)))
        began = time.perf_counter()
        result = estimate(scene)
        spent += time.perf_counter() - began
        number += 1
        bound = bounds.standard_deviations(bounds.scene_bound(scene, positions, system))
        found.append(np.asarray(result.num_sources))
        true_number = np.asarray(scene.truth.num_sources)
        matches = metrics.assign(
            metrics.direction_distance(result, scene.truth), found[-1], true_number
        )
        errors = metrics.matched_errors(result, scene.truth, matches)
        deviations.append((errors.azimuth.ravel(), np.asarray(bound)[..., 0].ravel()))
        right.append(found[-1] == true_number)
    rate = number * batch / spent
    errors, deviation = (np.concatenate(column) for column in zip(*deviations, strict=True))
    count = operations(config, options, float(np.mean(np.concatenate(found))))
    return (
        system.source_signal,
        batch,
        f"{rate:.1f}",
        f"{compiled:.0f}",
        f"{count / 1e6:.0f}",
        f"{100 * count * rate / ceiling:.1f}",
        statistics.efficiency(errors, deviation**2).median_ratio,
        float(np.mean(np.concatenate(right))),
    )


_HEADER = (
    "signal",
    "scenes at once",
    "scenes/s",
    "compile [s]",
    "Mflop/scene",
    "% of matrix rate",
    "azimuth |e|/bound",
    "count right",
)


def main(_):
    """All rows: source signals and batch sizes, beside the machine's own rate."""
    print(provenance.header(config_lib.Config()))
    ceiling = matrix_rate()
    print(f"large float32 matrix product: {ceiling / 1e9:.0f} Gflop/s")
    rows = []
    for signal in _SIGNALS.value:
        config = config_lib.override(config_lib.Config(), {"system.source_signal": signal})
        rows += [row(config, int(batch), ceiling) for batch in _BATCHES.value]
    print(tables.as_text(_HEADER, rows))


if __name__ == "__main__":
    app.run(main)
