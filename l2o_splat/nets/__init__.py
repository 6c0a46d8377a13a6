"""Networks and the neighbour search they attend over."""
