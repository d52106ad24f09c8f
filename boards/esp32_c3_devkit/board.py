"""ESP32-C3-DevKitM-1 with an ESP32-C3-MINI-1 module: 4 MB of flash, Wi-Fi, one RISC-V core.

Pins as in the board's header (docs.espressif.com, arduino-esp32, ESP32-C3-DevKitM-1) and ESP-IDF's
table of the ESP32-C3's pins (docs/en/api-reference/peripherals/gpio.rst): GPIO2, 8 and 9 are read
at a reset (strapping), 8 is the LED too; GPIO18 and 19 are USB's, GPIO20 and 21 the prompt's,
GPIO12 to 17 the flash's. ADC1 is GPIO0 to 4.
The chip lacks a pulse counter: pulses are counted by interrupt. It computes a signature on one
core at 160 MHz.
"""

from chip import Chip


class Board(Chip):
    """Wired as the class says; the transceiver is a MAX3485 with DE and /RE tied together."""

    name = "esp32_c3_devkit"
    TX, RX, DE = 7, 6, 4
    PILOT = 3
    PERMIT = 10  # none of JTAG's, which GPIO4 to 7 are at a reset
    PULSES = 5
    SDA, SCL = 1, 0
    BUTTON = 9  # Boot, in the user guide of ESP32-C3-DevKitM-1


def build():
    """The board."""
    return Board()
