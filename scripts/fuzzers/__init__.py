"""``scripts/fuzz``: the engine that mutates inputs, and one module for each target."""
