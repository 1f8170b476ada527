"""Sparse convolution: coordinates -> kernel maps -> convolution, one file per backend."""
