import micropython

micropython.kbd_intr(-1)  # until it is known whose the prompt is
try:
    import prompt

    prompt.ask()
    import gc

    # early and often: a heap that fills up with what importing, signing and texts leave is crumbs
    gc.threshold(4096)

    import board
    from evmeter.app import App, StartError

    hardware = board.build()
    if hardware.button_held():
        prompt.hand_over()
    try:
        app = App(hardware)
    except Exception as error:  # where the configuration is on trial, the one before comes back
        gc.collect()
        from evmeter.system.trial import go_back

        go_back(hardware, str(error) or repr(error))
        if not isinstance(error, StartError):
            raise
        hardware.halt("evmeter: %s" % error)
    else:
        gc.collect()
        app.run()
except BaseException as error:
    import prompt  # a Ctrl-C from before the first line may have ended that

    prompt.leave(error)
    raise
prompt.leave()
