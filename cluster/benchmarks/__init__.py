"""Throughput figures against honest peers: `pixelis bench`."""
