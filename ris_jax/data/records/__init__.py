"""Records: scenes on disk for training, in memory-mapped shards."""
