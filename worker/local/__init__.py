"""What a person runs on a laptop: the POS simulator and what shows its results."""
