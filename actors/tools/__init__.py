"""The six pixel tools and the toolbox that executes them."""
