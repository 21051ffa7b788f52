"""Add the best network of a run to the package, with a card of its origin and scores.

  ris-jax train --workdir=runs/reference --preset=reference
  python experiments/ship_weights.py --workdir=runs/reference --preset=reference --name=default

Writes ris_jax/networks/weights/NAME: config.json, parameters.npz, and card.json with the command
that trained it, the commit, the seed and its scores on 4000 scenes of the stream `test`. Present
networks: default (preset reference), robust, array_16x16, subspace_network.
"""

import dataclasses
import json
import pathlib
import subprocess

import ris_jax

# isort: split
from absl import app, flags

from ris_jax import presets
from ris_jax.accuracy import statistics
from ris_jax.networks import pretrained
from ris_jax.reports import provenance
from ris_jax.training import evaluation
from ris_jax.training import state as state_lib
from ris_jax.training.saving import checkpoint

_WORKDIR = flags.DEFINE_string("workdir", None, "work directory of the run", required=True)
_PRESET = flags.DEFINE_enum("preset", None, presets.NAMES, "preset of the run", required=True)
_NAME = flags.DEFINE_string("name", None, "name of the network", required=True)
_NUM_SCENES = flags.DEFINE_integer("num_scenes", 4000, "scenes to score", lower_bound=2)


def scores(network: pretrained.Network) -> dict[str, float]:
    """Compute held-out scores of a network."""
    config = network.config
    state = state_lib.create_train_state(config).replace(ema_params=network.params)
    result = evaluation.evaluate(state, evaluation.draw_heldout(config, "test", _NUM_SCENES.value))
    right = result.scores["count_correct"] > 0
    kind = "covariance" if config.model.architecture == "learned_pursuit" else "projector"
    return {
        f"{kind}_nmse": result.mean("nmse"),
        "count_accuracy": result.mean("count_correct"),
        "count_calibration_error": statistics.expected_calibration_error(
            result.scores["count_confidence"], right
        ),
    }


def main(_) -> None:
    """Score the network and write its files."""
    network, warnings = checkpoint.load_run(pathlib.Path(_WORKDIR.value))
    if warnings:
        raise app.UsageError("; ".join(warnings))
    config = network.config
    if config != presets.preset(_PRESET.value):
        raise app.UsageError(f"{_WORKDIR.value} holds no run of the preset {_PRESET.value}")
    root = pathlib.Path(ris_jax.__file__).parent
    git = ["git", "-C", str(root)]
    commit = subprocess.run(
        [*git, "rev-parse", "--short", "HEAD"], check=True, capture_output=True, text=True
    ).stdout.strip()
    difference = ["diff", "--quiet", "HEAD", "--", ":!networks/weights"]
    changed = subprocess.run([*git, *difference], check=False)
    commit += "-dirty" if changed.returncode else ""
    measured = {name: round(value, 4) for name, value in scores(network).items()}
    card = {
        "command": f"ris-jax train --workdir=runs/{_PRESET.value} --preset={_PRESET.value}",
        "commit": commit,
        "seed": config.training.seed,
        "epoch": json.loads(network.card)["epoch"],
        "test_scenes": _NUM_SCENES.value,
        "scores": measured,
        "versions": provenance.versions(),
        "machine": provenance.machine(),
    }
    shipped = dataclasses.replace(network, card=json.dumps(card, indent=1) + "\n")
    pretrained.write(shipped, root / "networks" / "weights" / _NAME.value)
    print(shipped.card)


if __name__ == "__main__":
    app.run(main)
