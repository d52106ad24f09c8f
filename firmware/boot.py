# Nothing runs before main.py.
