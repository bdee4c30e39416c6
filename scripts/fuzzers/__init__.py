"""What ``scripts/fuzz`` is made of: an engine that mutates what has led to something new, and a module a target."""
