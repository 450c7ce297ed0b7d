"""New BatchNorm statistics for a served network, beside it: what they change is shown, and nothing is replaced."""
