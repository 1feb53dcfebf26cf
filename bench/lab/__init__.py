"""The code that every measurement uses."""
