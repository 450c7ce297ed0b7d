"""How the cost of serving grows with the work: one chart per cause."""
