"""StyleDiffusion (arXiv 2303.15649): the method, its files and words, and the door to the host."""
