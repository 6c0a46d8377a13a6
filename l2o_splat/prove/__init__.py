"""What ``l2o prove`` runs: every claim about CUDA, measured in parts and judged, in one page."""
