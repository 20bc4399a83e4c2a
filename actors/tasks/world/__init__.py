"""Tasks of the procedural world: what is asked, what is true, and the calls that find out."""
