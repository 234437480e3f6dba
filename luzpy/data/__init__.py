"""From what users have to batches on their way to the device."""
