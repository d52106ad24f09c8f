"""Wireless-Tag WT32-ETH01: ESP32, 4 MB of flash, LAN8720 on RMII, 5 V; no USB.

Pins as in the vendor's data sheet V1.3 and the guide github.com/egnor/wt32-eth01 that holds it: on
the header are GPIO2, 4, 5, 12, 14, 15, 17, 32, 33, and the inputs GPIO35, 36, 39. GPIO2, 5, 12 and
15 are read at a reset (strapping): 5 and 15 want to be high or open, 12 low or open. GPIO0 takes
the PHY's 50 MHz clock from the oscillator that GPIO16 switches on: MicroPython's quick reference
for the ESP32, "WT32-ETH01 v1.4".
"""

from machine import Pin

from chip import EthernetChip


class Board(EthernetChip):
    """Wired as the class says; the transceiver is a MAX3485 with DE and /RE tied together."""

    name = "wt32_eth01"
    TX, RX, DE = 17, 5, 4  # marked TXD and RXD; the line idles high, as GPIO5 wants at a reset
    PILOT = 36
    PERMIT = 32
    PULSES = 33
    SDA, SCL = 14, 15  # pulled up, as GPIO15 wants

    def lan(self, network):
        """The PHY has address 1."""
        return network.LAN(mdc=Pin(23), mdio=Pin(18), power=Pin(16),
                           phy_type=network.PHY_LAN8720, phy_addr=1)


def build():
    """The board."""
    return Board()
