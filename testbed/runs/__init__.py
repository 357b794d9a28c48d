"""Runs that are kept: a folder each with the stories of what was run, written and read."""
