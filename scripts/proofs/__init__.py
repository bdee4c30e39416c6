"""What ``scripts/crash`` is made of: real processes, killed, starved and cut off, and a reckoning afterwards."""
