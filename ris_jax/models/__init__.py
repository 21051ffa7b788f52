"""Networks, split into a definition and parameters."""
