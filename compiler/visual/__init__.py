"""One HTML file of a run or a comparison: self-contained, readable without scripts."""
