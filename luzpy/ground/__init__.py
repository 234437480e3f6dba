"""What every other part of luzpy builds on; nothing here imports the rest."""
