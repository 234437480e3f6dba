"""What every other part of luzpy stands on; nothing here imports the rest."""
