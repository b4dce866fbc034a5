"""Everything that bends Faust."""
