"""Text to a parse tree."""
