"""MetaWorld: its tasks, exact and fast environments, scripted experts."""
