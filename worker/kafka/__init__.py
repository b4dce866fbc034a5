"""Speaks Kafka, and knows nothing of sessions."""
