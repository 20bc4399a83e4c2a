"""What `pixelis data` does, a file a word: world, show, leaks, import."""
