"""``l2o splat``: from photographs to a splat in one command, built on the commands that do each part."""
