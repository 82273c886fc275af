"""A conversation with one or several models, in a terminal or through a pipe."""
