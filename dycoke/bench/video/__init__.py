"""dycoke bench video: readers of video frames against each other."""
