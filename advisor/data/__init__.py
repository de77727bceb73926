"""The user's rows: files and hub data sets, what their columns mean, examples."""
