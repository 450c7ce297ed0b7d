"""The HTTP face: one file per resource, and one place where errors become answers."""
