"""What the methods that model sequences with transformers share."""
