"""Offline and imitation learning: from logs or demonstrations to a trained, evaluated, running policy."""

__version__ = "0.1.0"
