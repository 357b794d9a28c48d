"""The oracle: what the contract demands of everything that happened in a lab, against what is there."""
