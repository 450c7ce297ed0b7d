"""What light, lens, sensor and file format do to a scene; pictures are BGR uint8 HxWx3."""
