"""How much a packet costs that is sent and received."""
