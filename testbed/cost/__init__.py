"""What a program costs: time of each program and callback, instructions, connections a second."""
