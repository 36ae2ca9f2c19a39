"""Runs: settings and presets, training, evaluation, fine-tuning, diagnosis, studies."""
