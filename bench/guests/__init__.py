"""How fast two virtual machines exchange data through one bridge."""
