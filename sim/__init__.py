"""The simulation floor: a program in; results, cycles, counters and energy out."""
