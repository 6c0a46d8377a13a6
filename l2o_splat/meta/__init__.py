"""Training of update rules: unrolls, their losses and the buffer they resume from."""
