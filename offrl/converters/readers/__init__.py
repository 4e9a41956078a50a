"""One file per format that a source can have."""
