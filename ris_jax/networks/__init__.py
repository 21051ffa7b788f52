"""Networks: learned pursuit, subspace network, their losses, and the shipped weights."""
