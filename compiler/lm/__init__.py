"""Whole language models with their own weights, played layer by layer."""
