"""ESP32-DevKitC with an ESP32-WROOM-32 module, and what is made like it: 4 MB of flash, Wi-Fi.

Pins as in ESP-IDF's table of the ESP32's pins (docs/en/api-reference/peripherals/gpio.rst) and the
board's header (docs.espressif.com, arduino-esp32, ESP32-DevKitC-1):
GPIO6 to 11 are the flash's, GPIO1 and 3 the prompt's; GPIO0, 2, 5, 12 and 15 are read at a reset
(strapping) and stay free; GPIO34 to 39 are inputs without pull-up. ADC1 is GPIO32 to 39.
"""

from chip import Chip


class Board(Chip):
    """Wired as the class says; the transceiver is a MAX3485 with DE and /RE tied together."""

    name = "esp32_devkit"
    TX, RX, DE = 17, 16, 4  # UART2's own; free on WROOM, taken by PSRAM on WROVER modules
    PILOT = 34  # ADC1, and an input only: nothing can drive the front end by mistake
    PERMIT = 25  # no pulse at a reset, as GPIO14 and the strapping pins give
    PULSES = 33  # has a pull-up, by which a loose wire reads as no pulse
    SDA, SCL = 21, 22  # the usual ones
    BUTTON = 0  # Boot, in the user guide of ESP32-DevKitC


def build():
    """The board."""
    return Board()
