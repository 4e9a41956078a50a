"""From stores and rings to batches."""
