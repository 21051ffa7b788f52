"""Worker of `tune` with a simulated trainer that writes rows of metrics."""

import json
import math
import sys
import time

from ris_jax import files
from ris_jax.cli import main
from ris_jax.cli.commands import tune
from ris_jax.training import loop
from ris_jax.training.saving import metrics_log

SECONDS = 0.3  # an epoch


def simulated_train(config, workdir, after_epoch=lambda: None, wait=False):
    """Write scores that are best at a learning rate of 1e-2 and fall with the epochs."""
    workdir.mkdir(parents=True, exist_ok=True)
    with files.exclusive(workdir, wait=wait):
        _simulated_train_locked(config, workdir, after_epoch)


def _simulated_train_locked(config, workdir, after_epoch):
    distance = abs(math.log10(config.optimizer.learning_rate) + 2.0)
    for epoch in range(len(metrics_log.epoch_rows(workdir)) + 1, config.training.epochs + 1):
        time.sleep(SECONDS)
        row = {"kind": "epoch", "epoch": epoch, "val_nmse": (1.0 + distance) / epoch}
        row |= {"val_loss": row["val_nmse"] + 1.0, "val_count_accuracy": 1.0 / (1.0 + distance)}
        with (workdir / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        after_epoch()


if __name__ == "__main__":
    loop.train = simulated_train
    tune.check_gate = lambda workdir: None
    sys.exit(main.main(["ris-jax", "tune", *sys.argv[1:]]))
