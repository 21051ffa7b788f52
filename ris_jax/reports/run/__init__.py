"""Report page of a training run, with its figures and scores."""
