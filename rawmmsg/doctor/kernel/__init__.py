"""Reads the kernel's tables, with the standard library alone."""
