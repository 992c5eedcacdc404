"""The commands of hv that take more than a few lines: what they take, what they print. hv/cli.py joins them."""
