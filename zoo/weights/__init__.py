"""Weights: loading them by name or file, and moving them between architectures.

Source: thesis 7.3.3, the spatial network starts the spatiotemporal one.
"""
