"""What a model of transformers does untouched, it does with a method that keeps everything, or it says why not."""
