"""Training: optimizer, state, step, loop, checkpoint."""
