"""What the agent can do in a call. Tools are listed before the call exists."""
