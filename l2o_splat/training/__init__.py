"""What meta-training and the training of initializers share: outer loop, captures, saved states and records."""
