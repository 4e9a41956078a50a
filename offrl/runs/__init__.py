"""The run directory: checkpoints, loggers, loading, evaluating."""
