"""Signal model: arrays, codes, channels, scenes, measurements and covariances."""
