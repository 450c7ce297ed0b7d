"""How long something takes, with an interval and a verdict. Needs no torch, so that a server can measure too."""
