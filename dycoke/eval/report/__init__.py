"""Tables, intervals and plots out of the folders of runs."""
