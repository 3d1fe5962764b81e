"""The closed sets of words in a request. Imports nothing heavy, so that `masklet --help` need not wait for pixels."""

from typing import Literal

Direction = Literal["both", "forward", "backward"]
"""Which way objects are followed from their prompts."""
MaskType = Literal["binary", "highlighted", "greenscreen"]
"""What a picture shows."""
AnnotationType = Literal["mask", "box", "both"]
"""What `highlighted` draws of an object."""
OutputFormat = Literal["webp", "jpg", "png"]
"""Kind of the pictures."""
