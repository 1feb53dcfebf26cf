"""How fast frames leave."""
