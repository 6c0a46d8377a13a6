"""Growth and pruning: which Gaussians a scene gets and loses on the way, as functions of Gaussians alone."""
