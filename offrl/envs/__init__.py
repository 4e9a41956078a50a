"""Policies in environments: collecting steps, and evaluating."""
