"""What knows no instruction: sets of addresses, threads, files that are complete or absent, progress on a terminal."""
