"""The networks of ReSplat (arXiv 2510.08575). Released weights load as they are: module names are theirs."""
