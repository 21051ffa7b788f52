"""Recordings: one file of a user, in any supported format, read and checked."""
