"""How long a frame takes there and back."""
