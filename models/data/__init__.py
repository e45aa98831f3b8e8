"""What the nets read: views of clicks, the interaction log, the item catalogue, item features."""
