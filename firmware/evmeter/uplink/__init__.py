"""From the journal to the backend over MQTT."""


def is_address(text):
    """Whether `text` is an IPv4 address, as four decimal numbers."""
    parts = text.split(".")
    return len(parts) == 4 and all(
        0 < len(part) <= 3 and not part.strip("0123456789") and int(part) <= 255
        for part in parts)
