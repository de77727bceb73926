"""From predictions and a budget to a recommendation."""
