"""Host side of a tile behind AXI: one driver, a back end per kind of bus."""
