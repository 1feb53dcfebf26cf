"""Turns text into a parse tree."""
