"""Servers that a run asks over HTTP."""
