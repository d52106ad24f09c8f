"""LILYGO T-CAN485: ESP32, 4 MB of flash, Wi-Fi, RS-485 on board (MAX13487E), 5 to 12 V.

The board's own pins as in the vendor's github.com/Xinyuan-LilyGO/T-CAN485,
libraries/Mylibrary/pin_config.h, and its RS485 example: GPIO16 switches the supply of the
transceivers on, GPIO19 the RS-485 one; GPIO17 high keeps it from hearing what it sends, and it
finds its direction by itself. On the header of 12 pins are GPIO5, 18, 25, 32, 33 and 35, among
others (the vendor's pin map). GPIO5 is read at a reset (strapping).
"""

from machine import Pin

from chip import Chip


class Board(Chip):
    """Wired as the class says; the meter goes to the terminal A, B."""

    name = "lilygo_t_can485"
    TX, RX = 22, 21
    PILOT = 35
    PERMIT = 25
    PULSES = 33
    SDA, SCL = 32, 18

    def open_uart(self, baudrate, bits, parity, stop):
        """The meter's line; parity N, E or O."""
        for number in (16, 19, 17):
            Pin(number, Pin.OUT, value=1)
        return super().open_uart(baudrate, bits, parity, stop)


def build():
    """The board."""
    return Board()
