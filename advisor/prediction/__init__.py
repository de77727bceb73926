"""From calibration rows and a probe to predicted results with intervals."""
