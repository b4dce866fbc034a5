"""Tools that an operator runs beside a worker."""
