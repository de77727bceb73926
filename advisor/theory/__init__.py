"""Arrays in, arrays out: kernels, spectra, bounds, simulation, cost. Nothing here knows of transformers."""
