"""The commands that are a room of their own: one a module, registered in `testbed.cli`."""
