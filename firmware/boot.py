import rom_boot

rom_boot.start()
del rom_boot
