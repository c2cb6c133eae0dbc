"""The command line: what a person types, hands over and reads. No other floor imports it."""
