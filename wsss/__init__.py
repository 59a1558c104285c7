"""Companion of a paper on weakly supervised semantic segmentation: a Vision Transformer learns, from image-level
labels alone, to label every pixel. Importing this package is light: torch is loaded by the modules that need it.
"""

__version__ = "0.1.0"
