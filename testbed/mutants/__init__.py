"""Mutants of a program set: generated, compiled, loaded, and the contract's scenarios run on each."""
