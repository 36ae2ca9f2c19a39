"""Makes the modules of this folder importable in the folders below."""
