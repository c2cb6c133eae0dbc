"""Loop nests on one tile: what they need on chip, and the instructions they become. None knows a layer or a model."""
