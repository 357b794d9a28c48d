"""What a lab consists of: hosts, links, addresses, read from YAML or built in Python."""
