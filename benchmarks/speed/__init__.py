"""What a step costs, beside loops written by hand and other packages."""
