"""The parts of TSTDDs: optical flow, the networks of its streams, and the encoding of a clip."""
