"""For the tests of those who use or change tilescore; no part of the product imports this.

`pytest_plugin` with `gate` holds the cycles of schedules as a pytest plug-in. `random_program` makes random programs
for a tile of your own, with the formats it builds (`random_formats`); `random_tile` makes tiles; `quantized_layer` is
the float64 layer with the tile's quantizers put in.
"""
