"""Tasks from data sets of one form, whoever made them."""
