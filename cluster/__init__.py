"""Where things run, and the face to people: runtime, system, command line, reports."""
