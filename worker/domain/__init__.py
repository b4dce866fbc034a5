"""What a session is: pure functions on plain data."""
