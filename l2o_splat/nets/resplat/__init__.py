"""The networks of ReSplat (arXiv 2510.08575); module names are those of the released weights."""
