"""The thin process that answers Twilio: webhook, TwiML, and the hand-off of the media socket. Never imports pipecat."""
