"""Files of a run: written whole, checked when read, in a folder that one run has for itself."""
