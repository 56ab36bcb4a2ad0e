"""A project whose migrations write rows and define more than tables."""
