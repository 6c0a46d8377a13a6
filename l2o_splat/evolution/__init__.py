"""Training by evolution strategies, which need no gradient: numbers that change a whole run."""
