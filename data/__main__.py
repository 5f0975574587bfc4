"""`python -m data SOURCE`: a first look at a source, see programs/look.py."""

import runpy

if __name__ == "__main__":
    runpy.run_module("programs.look", run_name="__main__")
