"""Live operation: a compiled localiser, its export, and a service over HTTP and WebSocket."""
