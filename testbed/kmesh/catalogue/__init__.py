"""The catalogue of scenarios: every way to open, use and close a connection, two by two."""
