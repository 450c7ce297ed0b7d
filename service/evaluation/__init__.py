"""How good a bundle is on labelled pictures, through the path that serves them. Nothing that serves imports this."""
