"""A finished study as one file for an archive: packing it, and checking what was packed."""
