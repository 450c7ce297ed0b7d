"""One module per command. Each reads its settings, wires the parts together and prints; the work is done elsewhere.

Every command is imported to list them all, so a module here imports what is heavy, or only in an extra, inside its
function.
"""
