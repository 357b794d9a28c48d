"""The contract on many kernels: cells, where they run, and the table that comes of them."""
