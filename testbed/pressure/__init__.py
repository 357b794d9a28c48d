"""A program set under pressure: connections at full speed, consumers that stall, maps that are full."""
