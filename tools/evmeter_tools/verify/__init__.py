"""`evmeter verify`: independent checking of signed records. `check` judges, `read` finds them."""
