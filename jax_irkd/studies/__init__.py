"""The parts of a study: runs planned, carried out in processes, watched, compared, written down."""
