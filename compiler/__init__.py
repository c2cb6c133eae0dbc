"""The compiler floor: a model configuration in; layers, tiles, a schedule and a program out."""
