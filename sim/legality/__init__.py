"""What an instruction touches and may touch, and the proof that a whole program is legal (`verifier`)."""
