"""Your own paired RGB and infrared clips: one folder per class."""
