"""TFDS builders, one folder per dataset."""
