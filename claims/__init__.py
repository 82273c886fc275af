"""Claims of papers, each with the small experiment that shows it, or does not: arms, seeds, differences, verdict.

Above the families: it runs their commands and measures what they leave. Nothing imports it.
"""
