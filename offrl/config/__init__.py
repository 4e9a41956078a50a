"""Recipes: TOML on disk, frozen dataclasses here."""
