"""The host's UNet, made fit for gradients."""
