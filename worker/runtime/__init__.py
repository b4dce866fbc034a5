"""What moves the bytes between Kafka and the pipeline."""
