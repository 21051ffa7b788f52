"""Maximum likelihood for sources received at several frequencies."""
