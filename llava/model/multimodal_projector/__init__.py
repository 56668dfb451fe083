"""The projector between vision tower and language model."""
