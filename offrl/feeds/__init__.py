"""Where update cycles come from: one file per way of learning."""
