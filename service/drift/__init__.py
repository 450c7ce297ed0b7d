"""How far activations have moved from the training law and from a baseline: numpy only, no graph, no server."""
