"""``l2o bench``: one scoreboard for learned and conventional optimizers; see docs/benchmarks.md for its rules."""
