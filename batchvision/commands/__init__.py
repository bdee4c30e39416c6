"""The work of the commands, as plain values. Nothing here prints."""
