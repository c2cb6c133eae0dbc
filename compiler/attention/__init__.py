"""Attention layers: projections, rotary embedding, fused online softmax, output projection."""
