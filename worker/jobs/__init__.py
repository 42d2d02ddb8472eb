"""Plain functions the prefetchers run. They import neither rq nor pipecat."""
