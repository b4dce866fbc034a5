"""Clients and requests of Kafka; this room knows nothing of sessions."""
