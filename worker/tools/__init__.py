"""What an operator runs beside a worker."""
