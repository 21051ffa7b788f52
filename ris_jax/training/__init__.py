"""Training: optimizer, state, step, loop and held-out evaluation."""
