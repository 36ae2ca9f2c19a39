"""The commands by room: each is one call into the rooms below."""
