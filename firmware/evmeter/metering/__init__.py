"""From meter replies to readings that are believed or marked."""
