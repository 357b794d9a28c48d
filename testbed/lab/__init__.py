"""Hosts, their links, and the lab that owns them."""
