"""Turns a parse tree into a control-flow graph."""
