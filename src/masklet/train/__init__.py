"""Training: clips with true masks, simulated prompts, losses, and the loop that joins them."""
