"""What was done wrong to a picture before the network got it, told from the statistics of its first layers."""
