"""Data from outside: files and Hub sets to rows, rows to messages, preferences and groups."""
