"""A parse tree to a control-flow graph."""
