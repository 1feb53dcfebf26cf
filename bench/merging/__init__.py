"""The gain of merging."""
