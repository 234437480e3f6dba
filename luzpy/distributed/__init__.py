"""Several processes that train one model, on Hugging Face Accelerate."""
