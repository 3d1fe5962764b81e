"""The HTTP service: Replicate's and Cog's clients call masklet unchanged. A door: it decides nothing."""
