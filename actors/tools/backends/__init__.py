"""Adapters of the libraries that the tools stand on."""
