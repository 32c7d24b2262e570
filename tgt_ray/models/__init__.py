"""Provides models: the settings of backbones and students, and plain torch modules for images and texts."""
