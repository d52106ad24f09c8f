"""The operator's orders to a device: commands, the wished configuration, and who signs them."""
