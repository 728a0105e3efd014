"""From one spec to a running job: plan, render, submit, observe; the coordinator; the command line."""
