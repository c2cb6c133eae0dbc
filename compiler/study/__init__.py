"""Questions of co-design as sweeps with a page: what was claimed, what is measured, what could have refuted it."""
