"""What is measured of a model without training it: rates, time and memory."""
