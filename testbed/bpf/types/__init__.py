"""C types as what they hold: from BTF and DWARF, into Python values and back."""
