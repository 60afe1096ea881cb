"""NTU RGB+D with paired RGB and infrared clips."""
