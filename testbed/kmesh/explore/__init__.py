"""Exploration: random programs of what hosts do, each step held against the contract."""
