"""Tools around the method: papermill entry point and what later issues add."""
