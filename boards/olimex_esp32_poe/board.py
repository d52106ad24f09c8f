"""Olimex ESP32-POE and ESP32-POE-ISO with a WROOM module: 4 MB of flash, LAN8710, power over LAN.

Pins as in the vendor's schematic (github.com/OLIMEX/ESP32-POE, ESP32-PoE_Rev_K.pdf) and its table
of the connectors EXT and UEXT. GPIO12 is the PHY's power and GPIO17 its clock: MicroPython's
quick reference for the ESP32; from MicroPython 1.23 on (issue 14013). GPIO34 is the button, GPIO35
and 39 measure battery and supply, GPIO2, 14 and 15 are the card's, whose slot stays empty. GPIO0,
2, 5, 12 and 15 are read at a reset (strapping).
Never connect USB and power over LAN together on the board that is not ISO: its supply is not
isolated.
"""

from machine import Pin

from chip import EthernetChip


class Board(EthernetChip):
    """Wired as the class says. The transceiver, on UEXT, finds its direction by itself."""

    name = "olimex_esp32_poe"
    TX, RX = 4, 36  # UEXT's UART
    PILOT = 32
    PERMIT = 33
    PULSES = 15  # low at a reset only silences the boot loader
    SDA, SCL = 13, 16  # UEXT's I2C; GPIO16 is taken on boards with a WROVER module
    BUTTON = 34  # BUT1, pulled up on the board; no reset reads it

    def lan(self, network):
        """The chip gives the PHY its clock; address 0."""
        return network.LAN(mdc=Pin(23), mdio=Pin(18), power=Pin(12),
                           phy_type=network.PHY_LAN8720, phy_addr=0,
                           ref_clk=Pin(17), ref_clk_mode=Pin.OUT)


def build():
    """The board."""
    return Board()
