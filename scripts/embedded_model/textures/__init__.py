"""What the pictures are painted with: fields, lettering, materials, patterns and whole views."""
