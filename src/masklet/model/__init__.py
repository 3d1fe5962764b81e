"""The network of SAM 2 (Ravi et al., arXiv 2408.00714) and of `nano`: torch only; no files, no downloads, no time."""
