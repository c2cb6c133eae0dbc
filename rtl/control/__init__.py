"""From the program to the units: `dispatcher` (fetch, queues, SYNC, HALT), `issue` (tokens), `counters`."""
