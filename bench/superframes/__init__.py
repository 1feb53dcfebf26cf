"""What offload headers gain."""
