"""Networks, and how they are split into a definition and parameters."""
