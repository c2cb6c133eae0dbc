"""The `reference` level: what each instruction does to the memories (`run`, `matmul_model`, `vector_model`)."""
