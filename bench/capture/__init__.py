"""How many frames are received when they are sent as fast as possible."""
