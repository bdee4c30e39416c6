"""What the commands do, as plain values: nothing here prints."""
