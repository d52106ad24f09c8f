import micropython

micropython.kbd_intr(-1)  # until it is known whose the prompt is
try:
    import prompt

    prompt.ask()
    import rom_boot

    rom_boot.start()
    del rom_boot
except BaseException as error:
    import prompt  # a Ctrl-C from before the first line may have ended that

    prompt.leave(error)
    raise
