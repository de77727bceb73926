"""One streaming pass over a sample of the user's data: from a model to the files of a probe."""
