"""Package data: model families, benchmark tasks and calibration rows, read with ``importlib.resources``."""
