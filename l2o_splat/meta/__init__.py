"""Meta-training of update rules: episodes, unrolls, their losses, and the buffer that episodes are resumed from."""
