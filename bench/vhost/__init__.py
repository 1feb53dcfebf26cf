"""How fast frames move between a virtual machine's memory and a host."""
