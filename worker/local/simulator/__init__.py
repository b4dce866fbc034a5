"""The POS simulator."""
