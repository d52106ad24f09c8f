"""The operator's side: broker, collector, store."""
