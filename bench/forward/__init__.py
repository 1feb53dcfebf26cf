"""How fast frames are forwarded between two interfaces."""
