"""What comes from outside: users' recordings and the reference pipeline's shards."""
