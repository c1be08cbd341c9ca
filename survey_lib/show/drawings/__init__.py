"""The drawings of the methods, one file each, made of the parts in ``show/drawing.py``."""
