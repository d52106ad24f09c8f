"""Where things lie in the checkout."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build"
FIRMWARE = ROOT / "firmware"
HOST_BOARD = ROOT / "boards" / "host"
UMQTT = BUILD / "upy-lib" / "micropython-umqtt.simple"
LOGGING = BUILD / "upy-lib" / "micropython-logging"
