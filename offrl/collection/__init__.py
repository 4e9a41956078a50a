"""From policies to datasets: collecting, making bundled datasets, relabeling."""
