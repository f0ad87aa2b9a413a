"""Task bodies that the flows call."""
