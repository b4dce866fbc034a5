"""Writes schemas/ and docs/reference/ from the code."""
