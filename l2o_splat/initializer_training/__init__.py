"""Training of ReSplat's networks, the initial model and then the update on top of it, and of DIFF3R's head."""
