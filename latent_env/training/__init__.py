"""What every training has: its folder, the loop around it, cached features and the evaluation at its end."""
