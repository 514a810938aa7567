"""A run on many machines: Ray brings the nodes, a driver writes the one run directory."""
