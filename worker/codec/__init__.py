"""Convert bytes to domain objects and back: the only room that knows JSON and headers."""
