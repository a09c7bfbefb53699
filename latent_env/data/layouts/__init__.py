"""Layouts of data sets on disk: one file a layout, each finds the images and divides them into splits."""
