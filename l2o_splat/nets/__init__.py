"""Networks, and the neighbour search for their attention."""
