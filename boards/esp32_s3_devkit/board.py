"""ESP32-S3-DevKitC-1 with an ESP32-S3-WROOM-1 module: 8 MB of flash (N8), Wi-Fi, USB.

Pins as in ESP-IDF's table of the ESP32-S3's pins (docs/en/api-reference/peripherals/gpio.rst) and
the board's header (docs.espressif.com, ESP32-S3-DevKitC-1):
GPIO26 to 32 are the flash's, GPIO33 to 37 a module's with octal flash or PSRAM, GPIO19 and 20
USB's, GPIO43 and 44 the prompt's, GPIO38 or 48 the board's LED; GPIO0, 3, 45 and 46 are read at a
reset (strapping) and stay free. ADC1 is GPIO1 to 10.
"""

from chip import Chip


class Board(Chip):
    """Wired as the class says; the transceiver is a MAX3485 with DE and /RE tied together."""

    name = "esp32_s3_devkit"
    TX, RX, DE = 17, 18, 16  # UART1's own
    PILOT = 4
    PERMIT = 21  # neither strapping nor ADC: nothing else wants it
    PULSES = 7
    SDA, SCL = 8, 9
    BUTTON = 0  # Boot, in the user guide of ESP32-S3-DevKitC-1


def build():
    """The board."""
    return Board()
