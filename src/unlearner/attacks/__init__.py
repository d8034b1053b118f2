"""Attacks: attempts to get forgotten records back, one file each; the folder is the registry."""
