"""Tables and figures of bounds, estimates and recordings."""
