import rom_boot

rom_boot.start()
