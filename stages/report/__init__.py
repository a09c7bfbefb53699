"""What `report.html` is made of: safe HTML, figures in words, charts and pictures, the frame of a page."""
