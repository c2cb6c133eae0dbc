"""Hardware that knows no instruction: queues, trees, cells, and the contract between a unit and its issue logic."""
