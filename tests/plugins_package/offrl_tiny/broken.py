"""What raises when it is imported, as a package does that was made for another version."""

raise RuntimeError("made for another version")
