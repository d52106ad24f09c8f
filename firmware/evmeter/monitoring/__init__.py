"""What is told to people: alarms, status, telemetry."""
