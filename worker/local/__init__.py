"""Tools for one machine: a local Kafka, the POS simulator, and a live run that checks every output."""
