"""Labs that stay up: a process keeps each, answers for it, and takes it down when it ends."""
