"""The small ``l2o`` commands, one file each; ``l2o_splat.cli`` lists them all."""
