"""Shell scripts, and the launcher's program."""
