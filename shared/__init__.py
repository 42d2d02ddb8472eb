"""The floor of the house: values, policy and the one door to Redis. No starlette, rq or pipecat in here."""
