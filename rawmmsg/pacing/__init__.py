"""Batches of frames sent at a pace."""
