"""From the control pilot to charging sessions."""
