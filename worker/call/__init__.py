"""What happens inside one worker process: warm, park, serve one call, exit."""
