"""Reading what users have on disk: one module a layout, each finds files and sorts them into splits."""
