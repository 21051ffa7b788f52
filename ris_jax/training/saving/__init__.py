"""Files of a run: checkpoints, their retention, the work directory and the metrics log."""
