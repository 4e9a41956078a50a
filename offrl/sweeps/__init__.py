"""Many recipes, one after the other."""
