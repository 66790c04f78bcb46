"""How fast it runs: matrix products, compiled code, CUDA graphs, kernels and memory."""
