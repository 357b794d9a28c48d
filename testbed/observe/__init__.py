"""What happens in a lab, recorded while it happens."""
