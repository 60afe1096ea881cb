"""PKU-MMD phase 1 with paired RGB and infrared action instances."""
