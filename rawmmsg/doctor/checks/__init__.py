"""The checks. Each file has one kind, and a function check()."""
