"""The method of StyleDiffusion (arXiv 2303.15649) in plain torch, independent of any host."""
