"""Where tasks come from: the procedural world and data sets."""
