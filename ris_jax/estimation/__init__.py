"""Estimation without a network: maximum likelihood, baselines, and checks of the model."""
