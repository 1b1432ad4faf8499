"""How near an edit comes to its source, to the truth and to its prompt: a definition a function.

Pictures are float [B, H, W, 3] in 0..1, masks [B, H, W] with 1 where the edit is meant to be. A
batch of one goes with any batch. Every function gives one number a picture, or None where its
region is empty; means leave those out.
"""
