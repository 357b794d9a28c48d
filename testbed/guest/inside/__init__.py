"""What runs in a guest. It is taken there with the package; nothing of it runs on this machine."""
