"""External data: users' recordings and the reference pipeline's shards."""
