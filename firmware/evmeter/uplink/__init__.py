"""From the journal to the backend over MQTT."""
