"""Generate schemas/ and docs/reference/ from the code."""
