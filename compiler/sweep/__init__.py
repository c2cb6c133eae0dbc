"""Many layers on many tiles: points of a grid, measured in processes or on a cluster, kept, tabled and drawn."""
