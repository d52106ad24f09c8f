# What is frozen into an image, beside the board's own manifest.
package("evmeter", base_path=".", opt=3)
package("drivers", base_path="..", opt=3)
module("main.py", base_path=".")
require("umqtt.simple")
require("logging")
