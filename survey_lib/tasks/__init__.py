"""What gets compressed: data, models, training, dense nets."""
