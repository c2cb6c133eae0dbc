"""Mixture-of-experts layers: router, gather, SwiGLU experts, weighted combine."""
