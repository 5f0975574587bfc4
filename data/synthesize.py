"""`python -m data.synthesize`: new questions by the model itself, see programs/synthesize.py."""

import runpy

if __name__ == "__main__":
    runpy.run_module("programs.synthesize", run_name="__main__")
