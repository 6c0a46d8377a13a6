"""Training of ReSplat's networks: the initial model from scenes of known depth, then the update on top of it."""
