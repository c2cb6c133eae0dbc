"""What one tile computes and where it lies: expressions and their selection into VECTOR instructions."""
