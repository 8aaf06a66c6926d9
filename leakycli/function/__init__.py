"""The function that is computed: its rule, its kernel, and the statistics of input and output."""
