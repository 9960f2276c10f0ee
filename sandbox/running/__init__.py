"""What all processes of one run share: budget, output and end."""
