"""dycoke bench compress: time and memory of the compressors."""
