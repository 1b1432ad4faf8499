"""What dev.py is made of: the environment, the host's server, graphs. Not part of the node pack."""
