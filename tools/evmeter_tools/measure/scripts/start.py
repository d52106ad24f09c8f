# start.py IMAGE SCRIPT: runs a script from its file, as a chip does main.py, over IMAGE.
import sys

import rom

rom.mount(sys.argv[1])
folder, _, name = sys.argv[2].rpartition("/")
sys.path.append(folder)
__import__(name[:-3])
