"""The cost of checksums computed from scratch."""
