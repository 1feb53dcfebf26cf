"""The gain of offload headers."""
