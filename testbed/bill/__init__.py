"""The leak bill: what a test has acquired and not given back, and the line that acquired it."""
