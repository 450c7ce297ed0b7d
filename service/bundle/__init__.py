"""The contract between prepare and serve: what a bundle holds, and how it is written and verified."""
