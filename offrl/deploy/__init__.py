"""A policy as one file that acts without offrl."""
