"""Commands of the repository: environment, tests, checks and the making of the embedded model."""
